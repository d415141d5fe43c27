"use strict";
// Text that models wrote reaches the page only as the text of elements: never as markup, never as an attribute that loads.
const PAGE = 12;
const INVISIBLE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\u{e0000}-\u{e007f}]/gu;
const COLLATOR = new Intl.Collator("en", { numeric: true });

/** Make an element; children are nodes, or strings that become text. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Text as nodes, with what is not visible written as its code point. */
function plain(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INVISIBLE)) {
    nodes.push(text.slice(end, match.index));
    const code = "U+" + match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    nodes.push(make("span", { className: "code-point" }, code));
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

const count = (number) => number.toLocaleString("en");
const known = (value) => (value === null ? "unknown" : String(value));
const name = (text) => make("b", {}, make("bdi", {}, ...plain(text.length > 120 ? text.slice(0, 120) + "\u2026" : text)));
const fact = (text) => make("span", {}, text);

/** A list shown a page at a time, with controls that filter and sort it. */
function list(section, rows, controls, draw) {
  const place = document.querySelector(`[data-list="${section}"]`);
  const state = { page: 0, rows };
  const status = make("span", { role: "status" });
  const items = make("div", { className: "list" });
  const turn = (step, label) => make("button", { type: "button", onclick: () => { state.page += step; show(); } }, label);
  const [back, on] = [turn(-1, "Previous"), turn(1, "Next")];
  function show() {
    const from = state.page * PAGE;
    items.replaceChildren(...state.rows.slice(from, from + PAGE).map(draw));
    const to = Math.min(from + PAGE, state.rows.length);
    status.textContent = state.rows.length ? `${count(from + 1)} to ${count(to)} of ${count(state.rows.length)}` : "None";
    back.disabled = from === 0;
    on.disabled = to === state.rows.length;
  }
  function choose() {
    state.rows = controls.reduce((found, control) => control.apply(found, control.field.value), rows);
    state.page = 0;
    show();
  }
  let waiting = 0;
  const later = () => { clearTimeout(waiting); waiting = setTimeout(choose, 150); };
  for (const control of controls) control.field.addEventListener(control.field.tagName === "INPUT" ? "input" : "change", later);
  if (!rows.length) { place.replaceChildren(); return { reveal() {}, set() {} }; }
  const bar = make("div", { className: "controls" }, ...controls.map((one) => make("label", {}, one.label, one.field)));
  place.replaceChildren(...(controls.length ? [bar] : []), items, make("div", { className: "pager" }, back, on, status));
  show();
  return {
    reveal(row) {
      const position = state.rows.indexOf(row);
      if (position < 0) return;
      state.page = Math.floor(position / PAGE);
      show();
      const item = items.children[position % PAGE];
      item.open = true;
      item.scrollIntoView({ block: "start" });
      item.querySelector("summary").focus();
    },
    set(label, value) {
      for (const control of controls) control.field.value = control.label === label ? value : control.initial;
      choose();
    },
  };
}

function search(label, text) {
  const field = make("input", { type: "search", autocomplete: "off", spellcheck: false });
  function apply(rows, value) {
    const exact = rows.filter((row) => text(row) === value);
    return exact.length || !value ? (value ? exact : rows) : rows.filter((row) => text(row).toLowerCase().includes(value.toLowerCase()));
  }
  return { label, field, apply, initial: "" };
}

function select(label, choices, apply) {
  const shorten = (text) => (text.length > 60 ? text.slice(0, 60) + "\u2026" : text);
  const options = choices.map(([value, text]) => make("option", { value }, shorten(text).replace(INVISIBLE, "\u25a1")));
  return { label, field: make("select", {}, ...options), apply, initial: choices[0][0] };
}

function filter(label, names, key) {
  const apply = (rows, value) => (value === "all" ? rows : rows.filter((row) => String(key(row)) === value));
  return select(label, [["all", "all"], ...names], apply);
}

function sort(choices) {
  const order = (value) => choices.find((choice) => choice[0] === value)[2];
  const apply = (rows, value) => rows.slice().sort(order(value));
  return select("Sort by", choices.map(([value, text]) => [value, text]), apply);
}

/** Orders by a number, unknown ones last. */
const by = (key, sign) => (a, b) => {
  const [x, y] = [key(a), key(b)];
  if (x === null || y === null) return (x === null) - (y === null);
  return sign * (x - y);
};

/** A `details` element whose content is made when it is opened. */
function lazily(summary, fill) {
  const details = make("details", {}, make("summary", {}, ...summary));
  details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(...fill()); });
  return details;
}

function start(data) {
  const tasks = new Map(data.tasks.map((task) => [task.number, task]));
  const outcome = (program) => (program.worst < 0 ? data.unknown : data.outcomes[program.worst]);
  const words = (text) => text.replaceAll("_", " ");
  data.programs.forEach((program, number) => { program.number = number; program.name = tasks.get(program.task).name; });

  const badge = (program) => make("span", { className: `outcome ${outcome(program)}` }, words(outcome(program)));
  function verdicts(program) {
    const letters = [...program.outcomes];
    if (!letters.length) return [make("p", { className: "note" }, "The outcome of each test is not known.")];
    const names = letters.map((letter) => data.outcomes[letter.charCodeAt(0) - 97]);
    const tests = names.map((one, number) => make("li", { className: one }, `test ${number + 1}: ${words(one)}`));
    const nodes = [make("ol", { className: "tests", "aria-label": "Outcome of each test", tabIndex: 0 }, ...tests)];
    if (program.tests > letters.length) nodes.push(make("p", { className: "note" }, `and ${count(program.tests - letters.length)} more tests`));
    return nodes;
  }
  function code(program) {
    const nodes = [make("pre", { tabIndex: 0, role: "region", "aria-label": "Program" }, make("code", { dir: "ltr" }, ...plain(program.text)))];
    if (program.more) nodes.push(make("p", { className: "note" }, `${count(program.more)} more characters are left out.`));
    return nodes;
  }
  function origin(program) {
    const from = [`written in round ${program.round}`];
    if (data.sources[program.source]) from.push(`by ${data.sources[program.source]}`);
    if (data.scorers[program.scorer]) from.push(`possibility of ${data.scorers[program.scorer]}`);
    if (program.settings) from.push(program.settings);
    const link = make("a", { href: `#program-${program.number}` }, `#program-${program.number}`);
    return make("p", { className: "note" }, link, " \u00b7 ", make("bdi", {}, ...plain(from.join(" \u00b7 "))));
  }
  function prompt(task) {
    if (!task.prompt) return [];
    return [make("details", {}, make("summary", {}, "Prompt"), make("pre", { tabIndex: 0, role: "region", "aria-label": "Prompt" }, make("code", {}, ...plain(task.prompt))))];
  }
  const drawProgram = (program) => lazily(
    [name(program.name), badge(program), fact(`P2Value ${program.p2value}`), fact(`pass rate ${program.pass_rate}`),
      fact(`possibility ${known(program.possibility)}`), ...(program.truncated ? [fact("truncated")] : []),
      ...(program.draw === null ? [] : [fact(`drawn with probability ${program.draw}`)])],
    () => [...verdicts(program), ...code(program), origin(program), ...prompt(tasks.get(program.task))],
  );

  const codes = [...new Set(data.programs.map((program) => program.worst))].sort((a, b) => a - b);
  const used = (kind, names) => [...new Set(data.programs.map((program) => program[kind]))].map((place) => [String(place), names[place] || "not stated"]);
  const rounds = [...new Set(data.programs.map((program) => program.round))].sort((a, b) => a - b);
  const programs = list("programs", data.programs.slice().sort(by((one) => one.p2value, -1)), [
    search("Task", (program) => program.name),
    search("Text", (program) => program.text),
    filter("Worst outcome", codes.map((one) => [String(one), words(one < 0 ? data.unknown : data.outcomes[one])]), (program) => program.worst),
    ...(rounds.length > 1 ? [filter("Round", rounds.map((one) => [String(one), String(one)]), (program) => program.round)] : []),
    ...(data.sources.length > 1 ? [filter("Source", used("source", data.sources), (program) => program.source)] : []),
    ...(new Set(data.programs.map((program) => program.truncated)).size > 1
      ? [filter("End", [["false", "whole"], ["true", "truncated"]], (program) => program.truncated)] : []),
    sort([
      ["p2-down", "P2Value, highest first", by((one) => one.p2value, -1)], ["p2-up", "P2Value, lowest first", by((one) => one.p2value, 1)],
      ["rate-down", "pass rate, highest first", by((one) => one.pass_rate, -1)], ["rate-up", "pass rate, lowest first", by((one) => one.pass_rate, 1)],
      ["possibility-down", "possibility, highest first", by((one) => one.possibility, -1)],
      ["possibility-up", "possibility, lowest first", by((one) => one.possibility, 1)],
      ["task", "task", (a, b) => COLLATOR.compare(a.name, b.name)],
    ]),
  ], drawProgram);

  list("tasks", data.tasks, [
    search("Task", (task) => task.name),
    select("With", [["all", "any programs"], ["none", "no passing program"], ["some", "some passing"], ["only", "only passing"]], (rows, value) =>
      rows.filter((task) => value === "all" || value === (task.passing === 0 ? "none" : task.passing === task.programs ? "only" : "some"))),
    sort([
      ["best", "best pass rate, lowest first", by((task) => task.best, 1)],
      ["passing", "share passing, lowest first", by((task) => task.passing / task.programs, 1)],
      ["programs", "programs, most first", by((task) => task.programs, -1)],
      ["task", "task", (a, b) => COLLATOR.compare(a.name, b.name)],
    ]),
  ], (task) => lazily(
    [name(task.name), fact(`best pass rate ${task.best}`), fact(`${count(task.passing)} of ${count(task.programs)} programs pass`)],
    () => {
      const own = data.programs.filter((program) => program.task === task.number);
      const all = make("button", { type: "button", onclick: () => { programs.set("Task", task.name); document.getElementById("programs").scrollIntoView(); } }, "Show its programs");
      const note = `${count(own.length)} of its ${count(task.programs)} programs can be read here.`;
      return [make("p", { className: "note" }, note), ...(own.length ? [all] : []), ...prompt(task)];
    },
  ));

  if (data.tasks.length < data.all_tasks) {
    const note = `${count(data.tasks.length)} of ${count(data.all_tasks)} tasks are listed: those of lowest best pass rate, and all whose programs can be read here.`;
    document.querySelector("[data-list=tasks]").before(make("p", {}, note));
  }

  const parts = (pieces) => pieces.map((piece, number) => (number % 2 ? make("mark", {}, ...plain(piece)) : make("span", {}, ...plain(piece))));
  function line([kind, one, other]) {
    if (kind === "...") return [make("div", { className: "gap" }, `${count(one)} equal lines`)];
    if (kind === "=") return [make("div", {}, "  ", ...plain(one)), make("div", { className: "again" }, "  ", ...plain(one))];
    const minus = (pieces) => make("div", { className: "minus" }, "- ", ...parts(pieces));
    const plus = (pieces) => make("div", { className: "plus" }, "+ ", ...parts(pieces));
    if (kind === "-") return [minus(one), make("div", { className: "empty" })];
    if (kind === "+") return [make("div", { className: "empty" }), plus(one)];
    return [minus(one), plus(other)];
  }
  list("near-misses", data.near_misses, [
    search("Task", (pair) => data.programs[pair.failed].name),
    filter("Worst outcome", codes.filter((one) => data.outcomes[one] !== "passed").map((one) => [String(one), words(one < 0 ? data.unknown : data.outcomes[one])]), (pair) => data.programs[pair.failed].worst),
  ], (pair) => {
    const failed = data.programs[pair.failed];
    return lazily(
      [name(failed.name), badge(failed), fact(`${Math.round(1000 * pair.similarity) / 10} % of the tokens the same`),
        fact(`pass rate ${failed.pass_rate}`), fact(`P2Value ${failed.p2value} against ${data.programs[pair.passing].p2value}`)],
      () => {
        const head = make("div", { className: "row" }, make("div", { className: "head minus" }, "\u2212 failed"), make("div", { className: "head plus" }, "+ nearest passing"));
        // A program ends with a new line: what stands behind it is no line.
        const ending = pair.rows.findLastIndex((row) => row[0] !== "=" || row[1] !== "") + 1;
        const rows = pair.rows.slice(0, ending).map((row) => make("div", { className: "row" }, ...line(row)));
        return [make("div", { className: "diff", dir: "ltr" }, head, ...rows), ...verdicts(failed), ...prompt(tasks.get(failed.task))];
      },
    );
  });

  function follow() {
    const match = /^#program-(\d+)$/.exec(location.hash);
    if (!match || !data.programs[match[1]]) return;
    programs.set("", "");
    programs.reveal(data.programs[match[1]]);
  }
  addEventListener("hashchange", follow);
  follow();
}

async function unpack() {
  const bytes = Uint8Array.from(atob(document.getElementById("data").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  start(await new Response(stream).json());
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}
unpack();
