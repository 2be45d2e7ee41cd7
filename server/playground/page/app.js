// The page: its parts put together, and what people do carried out.

import { describeServer, useKey } from "./api.js";
import { add, messagesBefore, newConversation, path, titleOf, turn } from "./conversation.js";
import { Front } from "./front.js";
import { AssistantMessage, UserMessage } from "./messages.js";
import { Map as SliderMap } from "./map.js";
import { choose, Panel } from "./panel.js";
import { Share } from "./share.js";
import { changed, forgetAll, keep, onChange, restore, state } from "./store.js";
import { compared, requestOf, sentence, startingSettings, traced, unpacked } from "./steering.js";
import { html, render, useEffect, useRef, useState } from "./vendor/preact.js";
import { blankText, plainText, quotedText, Writer } from "./writer.js";

const PROMPTS = ["Tell me about your day.", "Describe a walk in the rain.", "Explain why the sky is blue.",
  "Write a letter to a friend who has moved away.", "What should I cook tonight?", "Review a film that does not exist."];
const NEAR_END = 160; // pixels
const writers = new Set();

const conversation = () => state.conversations.find((each) => each.id === state.current);

function begin() {
  const fresh = newConversation();
  state.conversations.push(fresh);
  state.current = fresh.id;
  return fresh;
}

/** Write the answer under a node, one column for each of the settings. */
function answer(owner, parent, settings, others = [compared(state.server, settings)]) {
  const seeded = { ...settings, seed: settings.seed ?? crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000 };
  const all = [seeded, ...others.filter(Boolean).map((other) => ({ ...other, seed: seeded.seed }))];
  const node = add(owner, parent.id, { role: "assistant", content: "", texts: all.map(blankText) });
  const messages = messagesBefore(owner, node);
  node.requests = all.map((each) => requestOf(state.server, messages, each));
  node.titles = all.map((each) => sentence(each.objective_weights));
  node.baseColumn = all.findIndex((each) => Object.values(each.objective_weights).every((weight) => !weight));
  node.texts.forEach((text, column) => {
    const writer = new Writer(traced(node.requests[column]), text, () => {
      if (column === 0) node.content = plainText(text);
      changed();
    });
    writer.node = node;
    writer.column = column;
    writers.add(writer);
    writer.run().finally(() => { writers.delete(writer); keep(); changed(); });
  });
  changed();
}

/** What the sliders say goes to the texts of the first column that are being written. */
function steer(fields) {
  for (const writer of writers) if (writer.column === 0) writer.steer(fields);
}

const actions = {
  send(content) {
    const owner = conversation() ?? begin();
    const last = path(owner).at(-1) ?? owner.nodes[0];
    answer(owner, add(owner, last.id, { role: "user", content }), state.settings);
  },
  edit(node, content) {
    const owner = conversation();
    answer(owner, add(owner, node.parent, { role: "user", content }), state.settings);
  },
  regenerate: (node) => answer(conversation(), conversation().nodes[node.parent], state.settings),
  turn(node, step) {
    turn(conversation(), node, step);
    keep();
    changed();
  },
  stop(node) {
    for (const writer of writers) if (writer.node === node) writer.stop();
  },
};

/** Go on from a cell of the map: its weights in the sliders, its text as the beginning of a conversation. */
function goOnFrom(cell) {
  const owner = begin();
  const asked = add(owner, 0, { role: "user", content: cell.prompt });
  add(owner, asked.id, {
    role: "assistant", content: plainText(cell.text), texts: [cell.text], requests: [cell.request],
    titles: [sentence(cell.weights)], baseColumn: -1,
  });
  Object.assign(state.settings, { objective_weights: cell.weights, profile: null, schedule: null });
  keep();
  changed();
}

async function connect() {
  useKey(state.key);
  state.problem = null;
  try {
    state.server = await describeServer();
    const known = new Set(state.server.objectives.map((each) => each.id));
    const fits = state.settings && Object.keys(state.settings.objective_weights).every((name) => known.has(name));
    state.settings = fits ? { ...startingSettings(state.server), ...state.settings } : startingSettings(state.server);
    await openLink();
  } catch (error) {
    state.problem = { message: error.message, hint: error.hint ?? "", status: error.status ?? 0 };
  }
  changed();
}

const quoted = ({ content }) => ({
  role: "assistant", content, texts: [quotedText(content)], requests: [null], titles: ["as it was"], baseColumn: -1,
});

/** A link's fragment is a request: it is asked for again, in a conversation of its own. */
async function openLink() {
  const request = location.hash ? await unpacked(location.hash.slice(1)) : null;
  if (!request) return;
  history.replaceState(null, "", location.pathname + location.search);
  const owner = begin();
  let parent = owner.nodes[0];
  for (const message of request.messages) parent = add(owner, parent.id, message.role === "assistant" ? quoted(message) : message);
  const { messages, ...fields } = request;
  const plain = startingSettings(state.server);
  const weights = { ...plain.objective_weights, ...fields.objective_weights };
  state.settings = { ...plain, ...fields, objective_weights: weights, schedule: undefined };
  answer(owner, parent, { ...state.settings, schedule: fields.schedule }, []);
}

function Welcome() {
  return html`<div class="welcome">
    <h2>Steer a text while it is being written</h2>
    <p>Choose a character or move the sliders, then ask for something. Move them again while the answer is being written:
      what comes next changes.</p>
    ${state.server.profiles.length > 0 && html`<h3>Characters</h3><ul class="cards">${state.server.profiles.map((profile) => html`
      <li key=${profile.id}><button type="button" aria-pressed=${state.settings.profile === profile.id} onClick=${() => choose(profile, steer)}>
        <b>${profile.title ?? profile.id}</b><small>${profile.description ?? sentence(profile.objective_weights ?? {})}</small></button></li>`)}</ul>`}
    <h3>Something to ask</h3>
    <ul class="cards">${PROMPTS.map((prompt) => html`<li key=${prompt}><button type="button" onClick=${() => actions.send(prompt)}>${prompt}</button></li>`)}</ul>
  </div>`;
}

function Composer({ disabled }) {
  const box = useRef(null);
  const send = (event) => {
    event?.preventDefault();
    const content = box.current.value.trim();
    if (!content || disabled) return;
    box.current.value = "";
    actions.send(content);
  };
  const key = (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event); };
  return html`<form class="composer" onSubmit=${send}>
    <label class="visually-hidden" for="prompt">Message</label>
    <textarea id="prompt" ref=${box} rows="2" placeholder="Ask for something" onKeyDown=${key}></textarea>
    <button type="submit" class="primary" disabled=${disabled}>Send</button>
  </form>`;
}

function Header({ onSettings, onMap, onFront }) {
  const others = state.conversations.filter((each) => each.nodes.length > 1);
  const pick = (event) => { state.current = event.target.value || null; keep(); changed(); };
  const shade = (event) => { state.shade = event.target.value; keep(); changed(); };
  return html`<header>
    <h1>MAVIS</h1><span class="model">${state.server?.model ?? ""}</span><span class="spacer"></span>
    ${state.server && html`<label class="row"><small>shade tokens by</small><select value=${state.shade} onChange=${shade}>
      <option value="none">nothing</option><option value="kl">cost</option>
      ${state.server.objectives.map((each) => html`<option value=${each.id}>${each.id}</option>`)}</select></label>`}
    ${others.length > 0 && html`<label class="row"><span class="visually-hidden">Conversation</span><select value=${state.current ?? ""} onChange=${pick}>
      <option value="">new conversation</option>${others.map((each) => html`<option value=${each.id}>${titleOf(each)}</option>`)}</select></label>`}
    <button type="button" onClick=${() => { state.current = null; keep(); changed(); }}>New</button>
    ${state.server?.objectives.length > 1 && html`<button type="button" onClick=${onMap}>Map</button><button type="button" onClick=${onFront}>Measured</button>`}
    <button type="button" onClick=${onSettings}>Settings</button>
  </header>`;
}

function Settings({ onClose }) {
  const dialog = useRef(null);
  useEffect(() => dialog.current.showModal(), []);
  const done = (event) => { state.key = event.target.elements.key.value.trim(); keep(); connect(); };
  const forget = () => { forgetAll(); Object.assign(state, { conversations: [], current: null, key: "" }); changed(); };
  return html`<dialog ref=${dialog} aria-labelledby="settings-title" onClose=${onClose}>
    <h2 id="settings-title">Settings</h2>
    <form method="dialog" onSubmit=${done}>
      <div class="field"><label for="key">API key, where the server wants one</label>
        <input id="key" name="key" type="password" autocomplete="off" value=${state.key} /></div>
      <p>Conversations, settings and the key are kept in this browser alone.</p>
      <div class="row"><button type="submit" class="primary">Done</button>
        <button type="button" onClick=${forget}>Forget everything</button></div>
    </form></dialog>`;
}

/** Keep the end of the text in sight, unless somebody has scrolled up to read. */
function followEnd() {
  const page = document.scrollingElement;
  if (page.scrollHeight - page.scrollTop - page.clientHeight < NEAR_END) page.scrollTop = page.scrollHeight;
}

function App() {
  const [dialog, setDialog] = useState(null);
  const owner = conversation();
  const isWriting = writers.size > 0;
  const close = () => setDialog(null);
  const all = { ...actions, share: (node, column) => setDialog({ text: node.texts[column], request: node.requests[column] }) };
  const nodes = owner ? path(owner) : [];
  useEffect(() => { if (isWriting) followEnd(); });
  return html`<div class="page">
    <${Header} onSettings=${() => setDialog("settings")} onMap=${() => setDialog("map")} onFront=${() => setDialog("front")} />
    <main>
      ${state.problem && html`<div class="problem" role="alert"><b>${state.problem.message}</b>${state.problem.hint} <button type="button" onClick=${connect}>Try again</button></div>`}
      ${!state.server && !state.problem && html`<p role="status">Asking the server what it offers…</p>`}
      ${state.server && nodes.length === 0 && html`<${Welcome} />`}
      <ol class="messages">${state.server && nodes.map((node) => {
        const Message = node.role === "assistant" ? AssistantMessage : UserMessage;
        return html`<${Message} key=${`${owner.id}-${node.id}`} conversation=${owner} node=${node} actions=${all} disabled=${isWriting} />`;
      })}</ol>
      ${state.server && html`<${Composer} disabled=${isWriting} />`}
    </main>
    ${state.server && html`<aside><${Panel} onSteer=${steer} isWriting=${isWriting} /></aside>`}
    ${dialog === "settings" && html`<${Settings} onClose=${close} />`}
    ${dialog === "map" && html`<${SliderMap} onChoose=${goOnFrom} onClose=${close} />`}
    ${dialog === "front" && html`<${Front} onChoose=${(weights) => choose({ objective_weights: weights }, steer)} onClose=${close} />`}
    ${dialog?.text && html`<${Share} ...${dialog} onClose=${close} />`}
  </div>`;
}

const draw = () => render(html`<${App} />`, document.getElementById("app"));

restore();
onChange(draw); // not as an effect: the server may have answered before a browser gets to those
draw();
connect();
