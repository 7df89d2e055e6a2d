// A detector's pictures, and its grid, each with a threshold to move.
function iou(a, b) {
  const wide = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), high = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (wide <= 0 || high <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (wide * high) / (area(a) + area(b) - wide * high);
}
const drawBox = (box, colour, extra = {}) => make("rect", { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1], fill: "none", stroke: colour, "stroke-width": 2, "vector-effect": "non-scaling-stroke", ...extra });
function canvas(image, width, height, label) {
  return make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, make("image", { href: image, width, height, preserveAspectRatio: "none" }));
}
function caption(box, text, colour, width) {
  const size = width / 15;
  return make("text", { x: box[0] + 1, y: Math.max(size, box[1] - 2), "font-size": size, fill: colour, stroke: "#000", "stroke-width": size / 6, "paint-order": "stroke", "font-weight": 700, "font-family": "system-ui, sans-serif" }, text);
}

for (const part of all(".scenes")) {
  const { classes, rows, total, confidence, least_iou: least } = read(part);
  const [conf, filter, only, status] = ["[data-conf]", "[data-class-filter]", "[data-wrong]", "[data-status]"].map((name) => part.querySelector(name));
  let pair = null;
  options(filter, classes, "any");
  conf.value = Math.round(100 * confidence);
  // Pair true and detected boxes, those with most overlap first; each box has one partner at most.
  function judge(row) {
    const boxes = row.detections.filter((box) => box[5] >= conf.value / 100);
    const pairs = row.truth.flatMap((object, t) => boxes.map((box, f) => [iou(object, box), t, f])).filter(([value]) => value > least).sort((a, b) => b[0] - a[0]);
    const ofTruth = new Map(), ofBox = new Map();
    for (const [, t, f] of pairs) if (!ofTruth.has(t) && !ofBox.has(f)) { ofTruth.set(t, f); ofBox.set(f, t); }
    const right = boxes.map((box, f) => ofBox.has(f) && row.truth[ofBox.get(f)][4] === box[4]);
    const missed = row.truth.filter((_, t) => !ofTruth.has(t));
    return { row, boxes, right, missed, wrong: right.filter((one) => !one).length + missed.length };
  }
  const fill = gallery(part.querySelector(".gallery"), part.querySelector(".more"), 24, ({ row, boxes, right, missed, wrong }) => {
    const picture = canvas(row.image, row.width, row.height, `Picture ${row.id}: ${boxes.length} boxes, ${wrong} mistakes`);
    missed.forEach((box) => picture.append(drawBox(box, "#fff", { "stroke-dasharray": "4 3" })));
    boxes.forEach((box, f) => picture.append(drawBox(box, right[f] ? "#22c55e" : "#f43f5e"), caption(box, `${classes[box[4]] ?? "?"} ${Math.round(100 * box[5])}`, right[f] ? "#86efac" : "#fda4af", row.width)));
    return make("li", { class: wrong ? "wrong" : "right" }, picture, `${row.id}: `, make("span", { class: wrong ? "bad" : "fine" }, wrong ? `${wrong} wrong or missed` : "all right"));
  });
  const press = confusionOf(part.dataset.gallery, (actual, predicted) => { pair = [actual, predicted]; only.checked = false; filter.value = ""; conf.value = Math.round(100 * confidence); show(); part.scrollIntoView({ block: "nearest" }); });
  function show() {
    part.querySelector("output").textContent = `${conf.value} %`;
    press(...(pair || ["", ""]));
    const has = (row) => !filter.value || [...row.truth, ...row.detections.filter((box) => box[5] >= conf.value / 100)].some((box) => classes[box[4]] === filter.value);
    const chosen = rows.filter((row) => has(row) && (!pair || row.pairs.some(([a, p]) => a === pair[0] && p === pair[1]))).map(judge).filter((one) => !only.checked || one.wrong);
    const sum = (count) => chosen.reduce((all, one) => all + count(one), 0);
    status.textContent = `${chosen.length} of the ${rows.length} pictures on this page, from ${total}: ${sum((one) => one.right.filter(Boolean).length)} boxes right, ${sum((one) => one.right.filter((r) => !r).length)} wrong, ${sum((one) => one.missed.length)} objects missed.`;
    fill(chosen);
  }
  [conf, filter, only].forEach((control) => control.addEventListener("input", () => { pair = null; show(); }));
  part.querySelector("[data-clear]").addEventListener("click", () => { pair = null; only.checked = false; filter.value = ""; show(); });
  show();
}

for (const part of all("[data-grid]")) {
  const { image, width, height, names, colours, levels, boxes, scores, classes, kept, cells } = read(part);
  const conf = part.querySelector("[data-conf]"), level = part.querySelector("[data-level]"), status = part.querySelector("[data-status]");
  levels.forEach((one, number) => level.append(make("option", { value: number }, `${one.scores.length} × ${one.scores[0].length} cells`)));
  const votes = levels.map((_, number) => cells.filter(([of], n) => of === number && kept[n]).length);
  level.value = votes.indexOf(Math.max(...votes));
  const put = (selector, picture) => part.querySelector(selector).replaceChildren(picture);
  function show() {
    const least = conf.value / 100, { scores: grid, classes: cellClasses } = levels[level.value];
    part.querySelector("output").textContent = `${conf.value} %`;
    const map = canvas(image, width, height, `The cells that are at least ${conf.value} % sure`), high = height / grid.length, wide = width / grid[0].length;
    grid.forEach((row, r) => row.forEach((score, c) => {
      const sure = score >= least, at = { x: c * wide, y: r * high, width: wide, height: high };
      map.append(make("rect", { ...at, fill: sure ? colours[cellClasses[r][c]] : "#000", "fill-opacity": sure ? 0.35 + 0.45 * score : 0.25, stroke: "#fff", "stroke-opacity": 0.35, "stroke-width": 0.4 }));
      if (sure) map.append(make("text", { x: (c + 0.5) * wide, y: (r + 0.5) * high, "font-size": Math.min(high, wide) * 0.6, "text-anchor": "middle", "dominant-baseline": "central", fill: "#fff", "font-weight": 700 }, names[cellClasses[r][c]]));
    }));
    put("[data-cells]", map);
    const every = boxes.map((box, n) => n).filter((n) => scores[n] >= least), stay = every.filter((n) => kept[n]);
    const before = canvas(image, width, height, `${every.length} boxes before suppression`), after = canvas(image, width, height, `${stay.length} boxes that are kept`);
    every.forEach((n) => before.append(drawBox(boxes[n], colours[classes[n]], { "stroke-opacity": 0.35 + 0.65 * scores[n] })));
    stay.forEach((n) => after.append(drawBox(boxes[n], colours[classes[n]]), caption(boxes[n], `${names[classes[n]]} ${percent(scores[n])}`, "#fff", width)));
    put("[data-all]", before);
    put("[data-kept]", after);
    status.textContent = `${every.length} boxes reach ${conf.value} %; ${stay.length} of them are kept.`;
  }
  [conf, level].forEach((control) => control.addEventListener("input", show));
  show();
}
