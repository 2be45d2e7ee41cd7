// A text on the page: formatted or token by token, with its ribbon, its cost, and what a token's candidates were.

import { tokenText } from "./api.js";
import { state } from "./store.js";
import { sentence, signed } from "./steering.js";
import { markdown } from "./markdown.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { plainText } from "./writer.js";

const SHOWN_CANDIDATES = 8;
const STRONGEST_VALUE = 0.6; // standard deviations: a token that does more is shaded as this one
const STRONGEST_KL = 0.4; // nats

/** How strongly a token is shaded, -1 to 1; null where nothing is known. */
function shadeOf(token, by) {
  const traces = token.traces ?? [];
  if (!traces.length || by === "none") return null;
  const of = (trace) => (by === "kl" ? (trace.kl ?? 0) / STRONGEST_KL : (trace.values?.[by] ?? 0) / STRONGEST_VALUE);
  return Math.max(-1, Math.min(1, traces.reduce((sum, trace) => sum + of(trace), 0)));
}

const shadeStyle = (shade) => {
  if (shade === null || Math.abs(shade) < 0.02) return {};
  const hue = shade > 0 ? "var(--up)" : "var(--down)";
  return { background: `color-mix(in srgb, ${hue} ${Math.round(Math.abs(shade) * 55)}%, transparent)` };
};

/** The tokens one by one; arrow keys and the mouse go from one to the next, and what it was chosen from is shown. */
export function Tokens({ text, until = Infinity, label }) {
  const [at, setAt] = useState(null);
  const shown = text.tokens.filter((token) => token.at < until);
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") setAt(null);
    if (step === undefined) return;
    event.preventDefault();
    setAt(Math.max(0, Math.min(shown.length - 1, (at ?? (step > 0 ? -1 : shown.length)) + step)));
  };
  const settingAt = (token) => text.settings.findLast((setting) => setting.from_token <= token.at);
  return html`
    <div class="tokens" tabindex="0" role="group" aria-label=${`${label}, token by token; arrow keys move`}
      onKeyDown=${move} onMouseLeave=${() => setAt(null)} onBlur=${() => setAt(null)}>
      ${shown.map((token, index) => html`<span key=${index} class=${index === at ? "token here" : "token"}
        style=${shadeStyle(shadeOf(token, state.shade))} onMouseEnter=${() => setAt(index)}>${token.text}</span>`)}
      ${at !== null && shown[at] && html`<${Candidates} token=${shown[at]} setting=${settingAt(shown[at])} />`}
    </div>`;
}

/** What a token was chosen from, before and after the tilt. */
function Candidates({ token, setting }) {
  const trace = token.traces?.[0];
  const [names, setNames] = useState({});
  const ranked = [...(trace?.candidates ?? [])].sort((a, b) => (b.tilted_logprob ?? -99) - (a.tilted_logprob ?? -99));
  const place = ranked.findIndex((each) => each.token_id === trace.token_id);
  const best = [...ranked.slice(0, SHOWN_CANDIDATES), ...(place >= SHOWN_CANDIDATES ? [ranked[place]] : [])]; // what was taken, however unlikely
  useEffect(() => {
    let isCurrent = true;
    const read = (id) => tokenText(state.server.model, id).then((found) => [id, found]);
    Promise.all(best.map((each) => read(each.token_id))).then((found) => isCurrent && setNames(Object.fromEntries(found)));
    return () => { isCurrent = false; };
  }, [trace]);
  const share = (logprob) => (logprob === null || logprob === undefined ? 0 : Math.exp(logprob));
  return html`
    <div class="candidates" role="status">
      <p><b>${JSON.stringify(token.text)}</b> <small>token ${token.at}${setting ? `, ${sentence(setting.objective_weights)}` : ""}${trace?.kl != null ? `, ${trace.kl.toFixed(3)} nats` : ""}</small></p>
      ${!best.length && html`<p><small>${trace ? "Its candidates are kept only while the page is open." : "Nothing was scored here."}</small></p>`}
      ${best.length > 0 && html`<table>
        <thead><tr><th scope="col">could have been</th><th scope="col">base</th><th scope="col">tilted</th>
          ${Object.keys(best[0].values).map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
        <tbody>${best.map((each) => html`
          <tr class=${each.token_id === trace.token_id ? "chosen" : ""}>
            <th scope="row">${JSON.stringify(names[each.token_id] ?? "…").slice(1, -1)}</th>
            <td>${percent(share(each.logprob))}</td><td>${percent(share(each.tilted_logprob))}</td>
            ${Object.values(each.values).map((value) => html`<td>${signed(value)}</td>`)}
          </tr>`)}</tbody>
      </table>`}
    </div>`;
}

const percent = (share) => (share >= 0.0995 ? `${(100 * share).toFixed(0)} %` : `${(100 * share).toFixed(1)} %`);

/** The text with its headings and lists, sanitised. */
export function Formatted({ text, until = Infinity }) {
  const box = useRef(null);
  const shown = plainText({ tokens: text.tokens.filter((token) => token.at < until) });
  useEffect(() => box.current.replaceChildren(markdown(shown)), [shown]);
  return html`<div class="formatted" ref=${box}></div>`;
}

/** Which weights wrote which tokens: a line for each objective that was ever weighed. */
export function Ribbon({ text, bounds }) {
  const end = text.tokens.length ? text.tokens.at(-1).at + 1 : 0;
  const parts = text.settings.map((setting, index) => ({
    ...setting, until: Math.min(end, text.settings[index + 1]?.from_token ?? end),
  })).filter((part) => part.until > part.from_token);
  const names = [...new Set(parts.flatMap((part) => Object.entries(part.objective_weights)
    .filter(([, weight]) => weight).map(([name]) => name)))];
  if (!names.length || !end) return null;
  const colour = (name, weight) => {
    const [low, high] = bounds[name] ?? [-2, 2];
    const strength = weight > 0 ? weight / Math.max(high, 0.01) : weight / Math.min(low, -0.01);
    const hue = weight > 0 ? "var(--up)" : "var(--down)";
    return weight ? `color-mix(in srgb, ${hue} ${Math.round(25 + 75 * Math.min(1, strength))}%, transparent)` : "var(--line)";
  };
  const said = parts.map((part) => `tokens ${part.from_token} to ${part.until - 1}: ${sentence(part.objective_weights)}`);
  return html`
    <div class="ribbon" role="img" aria-label=${`Weights along the text. ${said.join("; ")}`}>
      ${names.map((name) => html`<div class="lane"><span class="lane-name">${name}</span><div class="lane-parts">
        ${parts.map((part, index) => html`<i key=${index} title=${said[index]}
          style=${{ flexGrow: part.until - part.from_token, background: colour(name, part.objective_weights[name] ?? 0) }}></i>`)}
      </div></div>`)}
    </div>`;
}

/** The cost in one sentence. */
export function Cost({ text, base }) {
  const count = text.tokens.length ? text.tokens.at(-1).at + 1 : 0;
  if (!count || !text.settings.length) return null;
  const kl = text.kl ?? text.tokens.flatMap((token) => token.traces ?? []).reduce((sum, trace) => sum + (trace.kl ?? 0), 0);
  const ratio = base?.speed && text.speed ? `, ${(text.speed / base.speed).toFixed(2)}× the base's speed` : "";
  const speed = text.speed ? `, ${text.speed.toFixed(0)} tokens/s` : "";
  const end = { length: " It ended at its token limit.", stop: "" }[text.finish] ?? "";
  const gains = Object.entries(text.values ?? {}).map(([name, value]) => `${name} ${signed(value)}`).join(", ");
  return html`<p class="cost">${kl.toFixed(1)} nats from the base over ${count} tokens${speed}${ratio}.${gains ? ` Tokens' sums: ${gains}.` : ""}${end}</p>`;
}
