// What the page knows, and who is told when that changes. Kept in this browser alone.

const KEPT = "mavis.playground";
const MOST_CONVERSATIONS = 30;

export const state = {
  server: null, // what `describeServer` found
  problem: null, // why there is none: {message, hint, status}
  settings: null,
  conversations: [],
  current: null,
  shade: "none", // "none", "kl" or an objective
  key: "",
};

const listeners = new Set();
let scheduled = false;

export function onChange(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Tell that something has changed; drawn once a frame however often it is told. */
export function changed() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    for (const listener of listeners) listener();
  });
}

/** Read what an earlier visit has left. */
export function restore() {
  try {
    Object.assign(state, JSON.parse(localStorage.getItem(KEPT) ?? "{}"));
  } catch {
    localStorage.removeItem(KEPT);
  }
  for (const conversation of state.conversations) {
    for (const node of conversation.nodes) {
      for (const text of node.texts ?? []) if (text.status === "writing" || text.status === "waiting") text.status = "stopped";
    }
  }
}

let waiting = null;

/** Keep it for the next visit, in a moment: a slider that is dragged asks for it many times. */
export function keep() {
  waiting ??= setTimeout(write, 400);
}

addEventListener("pagehide", () => waiting && write());

/** Leave nothing for the next visit. */
export function forgetAll() {
  clearTimeout(waiting);
  waiting = null;
  localStorage.removeItem(KEPT);
}

/** The oldest conversations go where there is no room, tokens' candidates always. */
function write() {
  clearTimeout(waiting);
  waiting = null;
  const { settings, current, shade, key } = state;
  let conversations = state.conversations.slice(-MOST_CONVERSATIONS);
  for (;;) {
    try {
      localStorage.setItem(KEPT, JSON.stringify({ settings, current, shade, key, conversations }, withoutCandidates));
      return;
    } catch {
      if (!conversations.length) return;
      conversations = conversations.slice(1);
    }
  }
}

const withoutCandidates = (name, value) => (name === "candidates" ? undefined : value);
