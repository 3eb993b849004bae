const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const picture = byId("graph"), moved = byId("moved"), panel = byId("panel"), caption = byId("caption");
const opened = new Set(data.opened);
const boxes = new Map(), parents = new Map();
let chosen = null, position = null, playing = null;
let arranged, view = { x: 0, y: 0, scale: 1 }, steps = [];

(function index(level, parent) {
  for (const box of level.boxes) {
    boxes.set(box.number, box);
    if (parent) parents.set(box.number, parent.number);
    if (box.level) index(box.level, box);
  }
})(data.root, null);

// Steps: every node that is seen is computed, the result has the gradient 1, and back every node passes gradients on.

function findSteps() {
  const seen = [];
  (function walk(level) {
    for (const box of level.boxes) {
      if (box.level && opened.has(box.number)) walk(box.level);
      else if (box.about?.forward) seen.push(box);
    }
  })(data.root);
  const results = data.root.boxes.filter(box => box.kind === "output" && box.about.makes.some(made => made.gradient));
  steps = seen.map(box => ({ box, pass: "Forward", lines: [box.about.forward] }));
  for (const box of results) steps.push({ box, pass: "Backward", lines: box.about.backward });
  const back = seen.filter(box => box.about.backward.length).reverse();
  for (const box of back) steps.push({ box, pass: "Backward", lines: box.about.backward });
  steps.forEach((step, k) => { step.number = k; });
  const forward = new Map(), backward = new Map();
  for (const step of steps) (step.pass === "Forward" ? forward : backward).set(step.box.number, step.number);
  steps.when = { forward, backward };
}

// When the numbers of an edge appear: the value once its source is computed, the gradient once its target has passed it.
function whenValue(level, item) {
  const box = level.boxes[item], when = steps.when.forward;
  if (when.has(box.number)) return when.get(box.number);
  if (box.level && opened.has(box.number)) return Math.max(-1, ...box.level.boxes.map((_, k) => whenValue(box.level, k)));
  return -1;
}

function whenGradient(level, item) {
  const box = level.boxes[item], when = steps.when.backward;
  if (when.has(box.number)) return when.get(box.number);
  if (box.level && opened.has(box.number)) {
    const all = box.level.boxes.filter(inner => inner.kind !== "port").map(inner => whenGradient(box.level, box.level.boxes.indexOf(inner)));
    return Math.max(...all.filter(Number.isFinite), -1);
  }
  if (box.kind === "port") {
    const outer = parents.get(box.number);
    return Math.min(...[...when].filter(([number]) => isWithin(number, outer)).map(([, step]) => step));
  }
  return Infinity;
}

function isWithin(number, outer) {
  for (let at = number; at !== undefined; at = parents.get(at)) if (at === outer) return true;
  return false;
}

const paint = {
  label(level, e) {
    if (position === null) return 'class="label"';
    const [source, target] = level.edges[e];
    const hidden = [
      whenValue(level, source) <= position ? "" : " no-value",
      whenGradient(level, target) <= position ? "" : " no-gradient",
    ];
    return `class="label${hidden.join("")}"`;
  },
  box(box, isOpen) {
    if (box.kind === "port") return 'class="port"';
    const current = position !== null && steps[position]?.box === box;
    const ahead = position !== null && steps.when.forward.get(box.number) > position;
    const idle = box.about.forward === "";
    const names = [isOpen ? "open" : box.kind, current && "current", (ahead || idle) && "ahead", chosen === box.number && "chosen"];
    const fold = box.level ? ` aria-expanded="${isOpen}"` : "";
    return `class="${names.filter(Boolean).join(" ")}" data-number="${box.number}" tabindex="0" role="button"${fold}`
      + ` aria-label="${escapeText(describe(box))}"`;
  },
};

function describe(box) {
  const texts = box.about.makes.map(({ name, type, value, gradient }) =>
    `${name}${value === undefined ? "" : typeof value === "string" ? ` ${value}` : `, ${type}`}`
    + (typeof gradient === "string" ? `, gradient ${gradient}` : ""));
  const operation = box.about.facts.find(([label]) => label === "operation");
  return [operation ? `${operation[1]} node` : box.about.facts[0][1], box.name, ...texts].join("; ");
}

function show() {
  findSteps();
  arranged = arrange(data.root, opened, data);
  repaint();
}

function repaint() {
  const focused = document.activeElement?.dataset?.number;
  moved.innerHTML = draw(arranged, paint, data);
  if (focused !== undefined) moved.querySelector(`[data-number="${focused}"]`)?.focus({ preventScroll: true });
  byId("back").disabled = position === null;
  byId("all").disabled = position === null;
  byId("step").disabled = position === steps.length - 1;
  const step = steps[position];
  caption.textContent = "";
  if (step) {
    const all = steps.filter(other => other.pass === step.pass);
    const title = document.createElement("b");
    title.textContent = `${step.pass} ${all.indexOf(step) + 1} of ${all.length}: `;
    caption.append(title, step.lines.join("\n"));
  } else {
    caption.textContent = "Values run forward, gradients back. Choose a box to see its numbers; step with → and ←.";
  }
}

// View

// Around the picture, and the least scale at which its numbers are read without effort.
const AROUND = 20, LEGIBLE = 0.75;

function place() {
  moved.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);
}

function fit(least = 0.02) {
  const { width, height } = picture.getBoundingClientRect();
  const all = Math.min((width - 2 * AROUND) / arranged.width, (height - 2 * AROUND) / arranged.height, 1.6);
  view.scale = Math.max(all, least);
  view.x = Math.max(AROUND, (width - view.scale * arranged.width) / 2);
  view.y = Math.max(AROUND, (height - view.scale * arranged.height) / 2);
  place();
}

function zoom(factor, x, y) {
  const box = picture.getBoundingClientRect();
  const [atX, atY] = x === undefined ? [box.width / 2, box.height / 2] : [x - box.left, y - box.top];
  const scale = Math.min(Math.max(view.scale * factor, 0.02), 8);
  view.x = atX - (atX - view.x) * scale / view.scale;
  view.y = atY - (atY - view.y) * scale / view.scale;
  view.scale = scale;
  place();
}

function keepInView(number) {
  const element = moved.querySelector(`[data-number="${number}"]`);
  if (!element) return;
  const seen = picture.getBoundingClientRect(), box = element.getBoundingClientRect();
  const shift = (low, high, from, to) => low < from + AROUND ? from + AROUND - low : high > to - AROUND ? to - AROUND - high : 0;
  view.x += box.width > seen.width ? seen.left + AROUND - box.left : shift(box.left, box.right, seen.left, seen.right);
  view.y += box.height > seen.height ? seen.top + AROUND - box.top : shift(box.top, box.bottom, seen.top, seen.bottom);
  place();
}

function toggle(number) {
  const before = moved.querySelector(`[data-number="${number}"]`)?.getBoundingClientRect();
  if (!opened.delete(number)) opened.add(number);
  position = null;
  show();
  const after = moved.querySelector(`[data-number="${number}"]`)?.getBoundingClientRect();
  if (before && after) {
    view.x += before.left - after.left;
    view.y += before.top + before.height / 2 - after.top - after.height / 2;
    place();
    keepInView(number);
  }
}

// Panel

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function tableOf(rows, head, kind) {
  const table = element("table", undefined, kind), scroll = element("div", undefined, "scroll");
  for (const [texts, cell] of [...(head ? [[head, "th"]] : []), ...rows.map(row => [row, "td"])]) {
    const row = element("tr");
    row.append(...texts.map(text => element(cell, text)));
    table.append(row);
  }
  scroll.append(table);
  return scroll;
}

function numbers(array, kind) {
  const all = element("div", undefined, kind);
  if (typeof array === "string") all.append(element("p", array, "number"));
  else if (Array.isArray(array)) all.append(tableOf(array));
  else {
    const { bars, ...statistics } = array;
    all.append(tableOf(Object.entries(statistics), undefined, "names"));
    if (bars) {
      const [low, high, counts] = bars, most = Math.max(...counts), chart = element("div", undefined, "bars");
      chart.setAttribute("role", "img");
      chart.setAttribute("aria-label", `histogram from ${low} to ${high}`);
      for (const count of counts) {
        const bar = element("i");
        bar.style.height = `${100 * count / most}%`;
        bar.title = String(count);
        chart.append(bar);
      }
      const ends = element("div", undefined, "ends");
      ends.append(element("span", low), element("span", high));
      all.append(chart, ends);
    }
  }
  return all;
}

function choose(number) {
  chosen = number;
  panel.hidden = false;
  const box = boxes.get(number), { facts, makes, reads = [], forward, backward = [] } = box.about;
  panel.textContent = "";
  panel.append(element("h2", box.name));
  if (box.level) {
    const button = element("button", opened.has(number) ? "Close" : "Open");
    button.addEventListener("click", () => { toggle(number); choose(number); });
    panel.append(button);
  }
  const list = element("dl");
  for (const [label, text] of facts) {
    const value = element("dd");
    value.append(element(label === "code" ? "code" : "span", text));
    list.append(element("dt", label), value);
  }
  panel.append(element("h3", "what it is"), list);
  if (forward) panel.append(element("h3", "forward"), element("p", forward));
  if (backward.length)
    panel.append(element("h3", "backward"), ...backward.map(line => element("p", line, "gradient")));
  if (reads.length)
    panel.append(element("h3", "reads"), tableOf(reads, ["", "value", "gradient"], "names"));
  for (const made of makes) {
    if (made.value !== undefined) panel.append(element("h3", `${made.name}: ${made.type}`), numbers(made.value, "value"));
    if (made.gradient !== undefined) panel.append(element("h3", made.symbol), numbers(made.gradient, "gradient"));
  }
  panel.scrollTop = 0;
  repaint();
}

// Stepping

function goTo(to) {
  position = to === null || to < 0 ? null : Math.min(to, steps.length - 1);
  repaint();
  if (position !== null) keepInView(steps[position].box.number);
}

function stop() {
  clearInterval(playing);
  playing = null;
  byId("play").setAttribute("aria-pressed", "false");
}

function play() {
  if (playing) return stop();
  byId("play").setAttribute("aria-pressed", "true");
  if (position === steps.length - 1) position = null;
  const on = () => position === steps.length - 1 ? stop() : goTo(position === null ? 0 : position + 1);
  playing = setInterval(on, 900);
  on();
}

const actions = {
  back: () => { stop(); goTo(position === null ? null : position - 1); },
  step: () => { stop(); goTo(position === null ? 0 : position + 1); },
  play,
  all: () => { stop(); goTo(null); },
  smaller: () => zoom(1 / 1.25),
  larger: () => zoom(1.25),
  fit: () => fit(),
  open: () => { for (const box of boxes.values()) if (box.level) opened.add(box.number); position = null; show(); fit(); },
  close: () => { opened.clear(); position = null; show(); fit(); },
};
for (const [id, act] of Object.entries(actions)) byId(id).addEventListener("click", act);

const keys = { ArrowRight: "step", ArrowLeft: "back", p: "play", Escape: "all", "+": "larger", "=": "larger", "-": "smaller", 0: "fit" };
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const box = event.target.closest?.("[data-number]");
  if (box && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    press(Number(box.dataset.number));
  } else if (keys[event.key]) {
    event.preventDefault();
    actions[keys[event.key]]();
  }
});

function press(number) {
  if (boxes.get(number).level) toggle(number);
  choose(number);
  // The panel may have taken the place where it stands.
  keepInView(number);
}

// Pointers: a click chooses, one pointer drags, two zoom.

const pointers = new Map();
let travelled = 0, pressed = null;
picture.addEventListener("pointerdown", event => {
  if (!pointers.size) {
    travelled = 0;
    pressed = event.target.closest("[data-number]");
  }
  pointers.set(event.pointerId, event);
  picture.setPointerCapture(event.pointerId);
});
picture.addEventListener("pointermove", event => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const [x, y] = [event.clientX - before.clientX, event.clientY - before.clientY];
  travelled += Math.abs(x) + Math.abs(y);
  const [other] = [...pointers.values()].filter(pointer => pointer.pointerId !== event.pointerId);
  if (other) {
    const apart = pointer => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
    zoom(apart(event) / Math.max(apart(before), 1), (event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
  }
  view.x += other ? x / 2 : x;
  view.y += other ? y / 2 : y;
  picture.classList.add("dragged");
  place();
  pointers.set(event.pointerId, event);
});
for (const kind of ["pointerup", "pointercancel"])
  picture.addEventListener(kind, event => {
    pointers.delete(event.pointerId);
    picture.classList.remove("dragged");
    if (kind === "pointerup" && travelled < 6 && pressed) press(Number(pressed.dataset.number));
    pressed = null;
  });
picture.addEventListener("wheel", event => {
  // A page around this one scrolls on.
  if (window !== window.parent && !event.ctrlKey) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), event.clientX, event.clientY);
}, { passive: false });
moved.addEventListener("focusin", event => {
  const box = event.target.closest("[data-number]");
  if (box && box.matches(":focus-visible")) keepInView(box.dataset.number);
});
window.addEventListener("resize", () => fit(LEGIBLE));

// On paper all of it, as large as the page is wide.
window.addEventListener("beforeprint", () => {
  picture.setAttribute("viewBox", `-2 -2 ${arranged.width + 4} ${arranged.height + 4}`);
  moved.removeAttribute("transform");
});
window.addEventListener("afterprint", () => { picture.removeAttribute("viewBox"); place(); });

show();
fit(LEGIBLE);
