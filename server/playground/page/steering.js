// What the sliders say, as request fields; and what a text was asked with, as code and as a link. Pure functions.

export const DEFAULTS = { beta: null, kl_budget: null, temperature: 0.8, max_tokens: 256, scoring: null, seed: null, schedule: null, profile: null, compare: "none" };

/** What the page begins with: the operator's own weights. */
export const startingSettings = (server) => ({
  ...DEFAULTS, objective_weights: Object.fromEntries(server.objectives.map((each) => [each.id, each.default])),
});

/** What a request says of guidance, and a profile stands for. */
const GUIDING = ["objective_weights", "beta", "kl_budget", "scoring", "candidates", "candidate_min_p", "schedule"];

/** The request of one column. `settings` may have a `schedule`. */
export function requestOf(server, messages, settings) {
  const { temperature, max_tokens, seed } = settings;
  const given = Object.fromEntries(GUIDING.map((name) => [name, settings[name]]));
  const kept = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null && value !== undefined));
  return { model: server.model, messages, temperature, max_tokens, seed, ...kept };
}

/** What only the page needs beside a request: every token's trace. */
export const traced = (request) => ({ ...request, return_values: "candidates", return_token_ids: true });

/** The weights of the second column. */
export function compared(server, settings) {
  const weights = settings.objective_weights;
  const bounds = Object.fromEntries(server.objectives.map((each) => [each.id, each.bounds]));
  const each = (change) => Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, change(weight, name)]));
  const within = (value, name) => Math.min(Math.max(value, bounds[name][0]), bounds[name][1]);
  if (settings.compare === "none") return null;
  if (settings.compare === "base") return { ...settings, objective_weights: each((_, name) => within(0, name)) };
  if (settings.compare === "opposite") return { ...settings, objective_weights: each((weight, name) => within(-weight, name)) };
  const profile = server.profiles.find((one) => `profile:${one.id}` === settings.compare);
  return profile ? applied(server, { ...settings }, profile) : null;
}

/** Settings with a profile's fields in place of their own. */
export function applied(server, settings, profile) {
  const own = Object.fromEntries(GUIDING.map((name) => [name, profile[name] ?? null]));
  const plain = startingSettings(server).objective_weights;
  return { ...settings, ...own, objective_weights: { ...plain, ...profile.objective_weights } };
}

/** What has to be asked for to have a text written again token for token: its request with what held for which token. */
export const replayOf = (request, text) => (text.settings.length > 1 ? { ...request, schedule: text.settings } : request);

export const sentence = (weights) =>
  Object.entries(weights).filter(([, weight]) => weight).map(([name, weight]) => `${name} ${signed(weight)}`).join(", ") || "as the base writes";

export const signed = (number, digits = 2) => `${number >= 0 ? "+" : "−"}${Math.abs(number).toFixed(digits)}`;

// Links -------------------------------------------------------------------------------------------------------------

/** A request as a text for a link's fragment. */
export async function packed(request) {
  const { model, ...rest } = request;
  const stream = new Blob([JSON.stringify(rest)]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  return `1.${btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

/** The request of a link's fragment; null where it is none. */
export async function unpacked(fragment) {
  const [version, data] = fragment.split(".");
  if (version !== "1" || !data) return null;
  try {
    const bytes = Uint8Array.from(atob(data.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const request = JSON.parse(await new Response(stream).text());
    return Array.isArray(request.messages) ? request : null;
  } catch {
    return null;
  }
}

// Code --------------------------------------------------------------------------------------------------------------

const KEY_IN_PYTHON = 'os.environ["MAVIS_API_KEY"]';
const OPENAI = ["model", "messages", "temperature", "max_tokens", "seed"];

function python(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, inner]) => `${JSON.stringify(name)}: ${python(inner)}`).join(", ")}}`;
}

/** A request as a curl command, for a POSIX shell. */
export function asCurl(origin, request, needsKey) {
  const body = JSON.stringify(request).replaceAll("'", "'\\''");
  const key = needsKey ? ` \\\n  -H "Authorization: Bearer $MAVIS_API_KEY"` : "";
  return `curl ${origin}/v1/chat/completions \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${body}'`;
}

/** The same with the openai package. */
export function asOpenAi(origin, request, needsKey) {
  const own = Object.fromEntries(Object.entries(request).filter(([name]) => !OPENAI.includes(name)));
  const lines = OPENAI.filter((name) => request[name] !== undefined).map((name) => `    ${name}=${python(request[name])},`);
  const [imported, key] = needsKey ? ["import os\n\n", KEY_IN_PYTHON] : ["", '"none"'];
  return `${imported}from openai import OpenAI\n\nclient = OpenAI(base_url="${origin}/v1", api_key=${key})\nanswer = client.chat.completions.create(\n${lines.join("\n")}\n    extra_body=${python(own)},\n)\nprint(answer.choices[0].message.content)\n`;
}

/** The same with this server's own package. */
export function asSdk(origin, request, needsKey) {
  const { model, messages, ...rest } = request;
  const lines = Object.entries(rest).map(([name, value]) => `        ${name}=${python(value)},`);
  const [imported, key] = needsKey ? ["import os\n\n", `, api_key=${KEY_IN_PYTHON}`] : ["", ""];
  return `${imported}from mavis_client import MavisClient\n\nwith MavisClient("${origin}"${key}) as client:\n    answer = client.chat(\n        ${python(messages)},\n${lines.join("\n")}\n    )\n    print(answer.text)\n`;
}
