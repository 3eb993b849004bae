"use strict";
// The places of everything: the same as fbp/graph/picture/heights.py, arrange.py and svg.py.

function spread(wanted, weights, apart) {
  const offsets = [0];
  for (const distance of apart) offsets.push(offsets[offsets.length - 1] + distance);
  const blocks = [];
  wanted.forEach((want, k) => {
    let block = [want - offsets[k], weights[k], 1];
    while (blocks.length && blocks[blocks.length - 1][0] > block[0]) {
      const [mean, weight, size] = blocks.pop();
      const total = block[1] + weight;
      block = [(block[0] * block[1] + mean * weight) / total, total, block[2] + size];
    }
    blocks.push(block);
  });
  return blocks.flatMap(([mean, , size]) => Array(size).fill(mean)).map((shift, k) => shift + offsets[k]);
}

function findHeights(columns, halves, ties, sweeps, gap) {
  const y = halves.map(() => 0), before = halves.map(() => []), after = halves.map(() => []);
  for (const tie of ties) { before[tie.right].push(tie); after[tie.left].push(tie); }
  const least = columns.map(column => column.slice(1).map((b, k) => halves[column[k]] + halves[b] + gap));
  columns.forEach((column, c) =>
    spread(column.map(() => 0), column.map(() => 1), least[c]).forEach((place, k) => { y[column[k]] = place; }));
  for (let sweep = 0; sweep < sweeps; sweep++) {
    const forward = sweep % 2 === 0, both = sweep >= sweeps / 2;
    const order = [...columns.keys()];
    for (const c of forward ? order : order.reverse()) {
      const wanted = [], weights = [];
      for (const item of columns[c]) {
        let sum = 0, weight = 0;
        if (forward || both) for (const t of before[item]) { sum += (y[t.left] + t.rise) * t.weight; weight += t.weight; }
        if (!forward || both) for (const t of after[item]) { sum += (y[t.right] - t.rise) * t.weight; weight += t.weight; }
        wanted.push(weight ? sum / weight : y[item]);
        weights.push(weight || 1e-3);
      }
      spread(wanted, weights, least[c]).forEach((place, k) => { y[columns[c][k]] = place; });
    }
  }
  for (const chain of findChains(before, after)) straighten(chain, columns, least, y);
  return y;
}

function findChains(before, after) {
  const [back, ahead] = [before, after].map(some => some.map(ties => ties.filter(tie => tie.weight >= 1)));
  const follows = back.map(ties => ties.length === 1 && ahead[ties[0].left].length === 1);
  const chains = [];
  before.forEach((_, first) => {
    if (follows[first]) return;
    const chain = [[first, 0]];
    for (;;) {
      const [item, rise] = chain[chain.length - 1], [tie] = ahead[item];
      if (ahead[item].length !== 1 || !follows[tie.right]) break;
      chain.push([tie.right, rise + tie.rise]);
    }
    chains.push(chain);
  });
  return chains.sort((a, b) => b.length - a.length);
}

function straighten(chain, columns, least, y) {
  const rises = new Map(chain);
  let low = -Infinity, high = Infinity;
  columns.forEach((column, c) => column.slice(1).forEach((below, k) => {
    const above = column[k];
    if (rises.has(below)) low = Math.max(low, y[above] + least[c][k] - rises.get(below));
    if (rises.has(above)) high = Math.min(high, y[below] - least[c][k] - rises.get(above));
  }));
  if (low > high) return;
  const mean = chain.reduce((sum, [item, rise]) => sum + y[item] - rise, 0) / chain.length;
  for (const [item, rise] of chain) y[item] = Math.min(Math.max(mean, low), high) + rise;
}

function arrange(level, opened, rules) {
  const inside = level.boxes.map(box => box.level && opened.has(box.number) ? arrange(box.level, opened, rules) : null);
  const outer = inner => inner.height + rules.title + rules.margin;
  const sizes = level.kinds.map(([kind, of]) => {
    if (kind === 2) return [0, 4];
    const inner = kind === 0 ? inside[of] : null;
    return inner ? [inner.width, outer(inner)] : (kind === 0 ? level.boxes[of].shape : level.labels[of]).slice(0, 2);
  });
  const port = (item, ports) => {
    const inner = inside[item];
    if (!inner || !ports.length) return 0;
    return rules.title + ports.reduce((sum, k) => sum + inner.y[k], 0) / ports.length - outer(inner) / 2;
  };
  const ties = level.joints.map(([left, right, weight, e]) => {
    const [source, target, entry, exits] = level.edges[e];
    let rise = 0;
    if (left === source) rise += port(source, exits);
    if (right === target) rise -= port(target, entry < 0 ? [] : [entry]);
    return { left, right, weight, rise };
  });
  const y = findHeights(level.columns, sizes.map(size => size[1] / 2), ties, rules.sweeps, rules.apart);
  const widths = level.columns.map(column => Math.max(0, ...column.map(k => sizes[k][0])));
  const left = [];
  let x = 0;
  for (const width of widths) { left.push(x); x += width + rules.gap; }
  const top = Math.min(...sizes.map((size, k) => y[k] - size[1] / 2));
  const bottom = Math.max(...sizes.map((size, k) => y[k] + size[1] / 2));
  return { level, inside, sizes, left, widths, port, y: y.map(v => v - top), width: x - rules.gap, height: bottom - top };
}

const round = x => Math.round(x * 10) / 10;

function traceLine(points) {
  let [x, y] = points[0], text = `M${round(x)} ${round(y)}`;
  for (const [toX, toY] of points.slice(1)) {
    const middle = round((x + toX) / 2);
    text += Math.abs(toY - y) < 0.05 ? `H${round(toX)}`
      : `C${middle} ${round(y)} ${middle} ${round(toY)} ${round(toX)} ${round(toY)}`;
    [x, y] = [toX, toY];
  }
  return text;
}

// The elements of a level; `paint` says of a box or a label what else its group carries.
function draw(arranged, paint, rules) {
  const { level, inside, sizes, left, widths, y, port } = arranged, parts = [];
  const column = [];
  level.columns.forEach((items, c) => items.forEach(item => { column[item] = c; }));
  const middle = item => [left[column[item]] + widths[column[item]] / 2, y[item]];
  const end = (item, ports, side) => {
    const [x, at] = middle(item), edge = x + side * sizes[item][0] / 2;
    return inside[item] && ports.length ? ports.map(k => [edge, at + port(item, [k])]) : [[edge, at]];
  };
  level.edges.forEach(([source, target, entry, exits], e) => {
    const route = level.routes[e], [goal] = end(target, entry < 0 ? [] : [entry], -1);
    for (const start of end(source, exits, 1)) {
      const points = [start];
      [source, ...route].forEach((item, k) => {
        const c = column[item], to = k < route.length ? y[route[k]] : goal[1];
        points.push([left[c] + widths[c], points[points.length - 1][1]], [left[c + 1], to]);
      });
      parts.push(`<path d="${traceLine([...points, goal])}"/>`);
    }
    if (level.boxes[target].kind !== "port")
      parts.push(`<path class="tip" d="M${round(goal[0])} ${round(goal[1])}l-7 -3.5v7z"/>`);
    if (level.labels[e][2]) {
      const [x, at] = middle(route[route.length - 1]);
      parts.push(`<g ${paint.label(level, e)} transform="translate(${round(x)} ${round(at)})">${level.labels[e][2]}</g>`);
    }
  });
  level.boxes.forEach((box, item) => {
    const [x, at] = middle(item), [width, height] = sizes[item];
    if (!inside[item])
      parts.push(`<g ${paint.box(box, false)} transform="translate(${round(x)} ${round(at)})">${box.shape[2]}</g>`);
    else
      parts.push(
        `<g ${paint.box(box, true)} transform="translate(${round(x - width / 2)} ${round(at - height / 2)})">`
        + `<rect width="${round(width)}" height="${round(height)}" rx="8"/><text class="title" x="10" y="16">`
        + `${escapeText(box.title)}</text><g transform="translate(0 ${rules.title})">`
        + `${draw(inside[item], paint, rules)}</g></g>`);
  });
  return parts.join("");
}

const escapeText = text => text.replace(/[&<>"]/g, c => `&#${c.charCodeAt(0)};`);
