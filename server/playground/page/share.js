// A text as a link, as code, as a file, as a picture.

import { state } from "./store.js";
import { asCurl, asOpenAi, asSdk, packed, replayOf, sentence } from "./steering.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { plainText } from "./writer.js";

const CODES = { curl: asCurl, openai: asOpenAi, SDK: asSdk };
const WIDTH = 900;
const MARGIN = 40;

export function Share({ text, request, onClose }) {
  const dialog = useRef(null);
  const [code, setCode] = useState("curl");
  const [said, setSaid] = useState("");
  useEffect(() => dialog.current.showModal(), []);
  const whole = replayOf(request, text);
  const shown = CODES[code](location.origin, whole, Boolean(state.key));
  const copy = async (what, name) => {
    try {
      await navigator.clipboard.writeText(await what);
      setSaid(`${name} copied.`);
    } catch {
      setSaid("The browser does not allow copying here: select the text and copy it.");
    }
  };
  const link = async () => `${location.origin}${location.pathname}#${await packed(whole)}`;
  return html`<dialog ref=${dialog} aria-labelledby="share-title" onClose=${onClose}>
    <h2 id="share-title">Share this text</h2>
    <p>Asked for again with its seed and all that was moved meanwhile, this text is written again, token for token, by the
      same server and models when nothing else runs.</p>
    <div class="row"><button type="button" class="primary" onClick=${() => copy(link(), "Link")}>Copy link</button>
      <button type="button" onClick=${() => save(new Blob([JSON.stringify({ request: whole, text }, null, 2)], { type: "application/json" }), "text.json")}>Download JSON</button>
      <button type="button" onClick=${async () => save(await picture(text, whole), "text.png")}>Download picture</button></div>
    <div class="row" role="group" aria-label="As code">${Object.keys(CODES).map((name) => html`
      <button type="button" aria-pressed=${name === code} onClick=${() => setCode(name)}>${name}</button>`)}
      <button type="button" onClick=${() => copy(shown, "Code")}>Copy code</button></div>
    <pre tabindex="0" aria-label="Code">${shown}</pre>
    <p role="status">${said}</p>
    <form method="dialog"><button>Close</button></form>
  </dialog>`;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The text with its ribbon, drawn as a PNG. */
async function picture(text, request) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  const font = "20px system-ui, sans-serif";
  context.font = font;
  const words = (content) => lines(context, content, WIDTH - 2 * MARGIN);
  const asked = words(request.messages.at(-1).content);
  const written = words(plainText(text));
  canvas.width = WIDTH;
  canvas.height = 2 * MARGIN + 30 * (asked.length + written.length) + 130;
  context.font = font;
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  let y = MARGIN + 20;
  const write = (content, colour) => content.forEach((line) => { context.fillStyle = colour; context.fillText(line, MARGIN, y); y += 30; });
  write(asked, "#2f50c4");
  y += 15;
  write(written, "#1d2026");
  ribbon(context, text, y + 5);
  context.font = "15px system-ui, sans-serif";
  write([`${text.settings.map((each) => sentence(each.objective_weights)).slice(0, 4).join("  →  ")}`].map((line) => line.slice(0, 110)), "#5c626e");
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function ribbon(context, text, y) {
  const end = text.tokens.at(-1).at + 1;
  const width = WIDTH - 2 * MARGIN;
  text.settings.forEach((setting, index) => {
    const until = text.settings[index + 1]?.from_token ?? end;
    const sum = Object.values(setting.objective_weights).reduce((total, weight) => total + weight, 0);
    context.fillStyle = sum > 0 ? "#2a78d6" : sum < 0 ? "#d9772b" : "#d9d7cf";
    context.fillRect(MARGIN + (width * setting.from_token) / end, y + 25, (width * (until - setting.from_token)) / end - 1, 12);
  });
}

function lines(context, content, width) {
  const found = [];
  for (const paragraph of content.split("\n")) {
    let line = "";
    for (const word of paragraph.split(" ")) {
      if (line && context.measureText(`${line} ${word}`).width > width) {
        found.push(line);
        line = word;
      } else line = line ? `${line} ${word}` : word;
    }
    found.push(line);
  }
  return found;
}
