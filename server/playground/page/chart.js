// What a text has gained and cost so far, along its tokens.

import { html, useEffect, useRef } from "./vendor/preact.js";
import uPlot from "./vendor/uPlot.js";

const HEIGHT = 150;
const COLOURS = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];

/** Columns for uPlot: token, nats, and each objective's value, all summed up from the first token on. */
export function sumsAlong(text, names) {
  const columns = [[], [], ...names.map(() => [])];
  const sums = columns.map(() => 0);
  let at = 0;
  for (const trace of text.tokens.flatMap((token) => token.traces ?? [])) {
    sums[1] += trace.kl ?? 0;
    names.forEach((name, index) => { sums[index + 2] += trace.values?.[name] ?? 0; });
    columns[0].push(at);
    for (let column = 1; column < columns.length; column += 1) columns[column].push(sums[column]);
    at += 1;
  }
  return columns;
}

export function Chart({ text, names }) {
  const box = useRef(null);
  const plot = useRef(null);
  const data = sumsAlong(text, names);
  useEffect(() => {
    const style = getComputedStyle(box.current);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    const line = (label, name) => ({ label, stroke: colour(name), width: 2, value: (_, number) => number?.toFixed(2) ?? "" });
    plot.current = new uPlot({
      width: box.current.clientWidth, height: HEIGHT, cursor: { y: false },
      scales: { x: { time: false } }, axes: [axis, { ...axis, size: 46 }],
      series: [{ label: "token" }, line("nats", "--soft"), ...names.map((name, index) => line(name, COLOURS[index % COLOURS.length]))],
    }, data, box.current);
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: box.current.clientWidth, height: HEIGHT }));
    resized.observe(box.current);
    return () => { resized.disconnect(); plot.current.destroy(); plot.current = null; };
  }, [names.join()]);
  useEffect(() => plot.current?.setData(data));
  const last = data.slice(1).map((column) => column.at(-1) ?? 0);
  const said = [`${last[0].toFixed(1)} nats`, ...names.map((name, index) => `${name} ${last[index + 1].toFixed(1)}`)];
  return html`<figure class="chart" role="img" aria-label=${`Sums along the text, at its end: ${said.join(", ")}`} ref=${box}></figure>`;
}
