// Talks to the server: requests, streams of events, changes. No page in here.

/** What went wrong, in words for people: `message` says what, `hint` what to do. */
export class ApiError extends Error {
  constructor(message, { status = 0, hint = "", param = null } = {}) {
    super(message);
    this.status = status;
    this.hint = hint;
    this.param = param;
  }
}

const HINTS = {
  0: "Check that the server runs, then try again. What was written is kept.",
  401: "Enter the server's API key under Settings.",
  403: "This key may not do that. Enter another one under Settings.",
  404: "The server does not know this. It may have been restarted.",
  409: "It has ended already, or another text of this name is being written. Try again.",
  413: "The conversation has become too long. Begin a new one.",
  429: "The server is busy. Try again in a moment.",
  503: "The server is starting, stopping or very busy. Try again in a moment.",
};

let key = null;

/** The API key that goes along from now on; null for none. */
export function useKey(value) {
  key = value || null;
}

function headers(more = {}) {
  return { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...more };
}

async function refusal(answer) {
  let said = null;
  try {
    said = (await answer.json()).error;
  } catch {
    // Not an envelope: a proxy's page, or nothing.
  }
  const message = said?.message || `The server answered with status ${answer.status}.`;
  return new ApiError(message, { status: answer.status, hint: HINTS[answer.status] ?? "", param: said?.param ?? null });
}

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", { hint: HINTS[0] });
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

const json = (body) => ({ body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

export const getJson = async (path) => (await call(path)).json();

/** Everything the page has to know of the server. */
export async function describeServer() {
  const [objectives, profiles, models] = await Promise.all([
    getJson("/v1/objectives"), getJson("/v1/profiles"), getJson("/v1/models"),
  ]);
  const model = models.data[0];
  return { objectives: objectives.data, profiles: profiles.data, model: model.id, maxTokens: model.max_model_len };
}

/** The text of one token. */
const texts = new Map();
export async function tokenText(model, id) {
  if (!texts.has(id)) {
    const asked = call("/detokenize", { method: "POST", ...json({ model, tokens: [id] }) });
    texts.set(id, asked.then((answer) => answer.json()).then((answer) => answer.prompt).catch(() => `#${id}`));
  }
  return texts.get(id);
}

/** A conversation as the model reads it, up to where its answer begins. */
export async function promptTokens(model, messages) {
  const answer = await call("/tokenize", { method: "POST", ...json({ model, messages, add_generation_prompt: true }) });
  return (await answer.json()).tokens;
}

/** Change a running generation. Resolves to the first token that the change holds for. */
export async function change(id, token, fields) {
  const request = { method: "PATCH", ...json(fields) };
  request.headers["X-Generation-Token"] = token;
  return (await (await call(`/v1/generations/${encodeURIComponent(id)}`, request)).json()).effective_from_token;
}

/** The events of a streamed answer, parsed, one by one. */
export async function* stream(body, signal, token, path = "/v1/chat/completions") {
  const request = { method: "POST", signal, ...json({ ...body, stream: true }) };
  request.headers["X-Generation-Token"] = token;
  const answer = await call(path, request);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  while (!ended) {
    const { value, done } = await read(reader);
    ended = done;
    rest += value ?? "";
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) {
        const status = event.error.code ?? 500;
        throw new ApiError(event.error.message, { status, hint: HINTS[status] ?? HINTS[0] });
      }
      yield event;
    }
  }
  throw new ApiError("The answer broke off: the server stopped or the connection was lost.", { hint: HINTS[0] });
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The answer broke off: the server stopped or the connection was lost.", { hint: HINTS[0] });
  }
}
