// The answers of a classifier: a gallery filtered by classes, confidence and right or wrong; and the numbers read.
for (const part of all(".answers")) {
  const { classes, rows, total, wrong } = read(part);
  const [actual, predicted, sure, only] = ["[data-actual]", "[data-predicted]", "[data-sure]", "[data-wrong]"].map((name) => part.querySelector(name));
  const told = part.querySelector("[data-told]");
  options(actual, classes, "any");
  options(predicted, classes, "any");
  const fill = gallery(part.querySelector(".gallery"), part.querySelector(".more"), 48, ([id, label, said, score, image]) => {
    const right = label === said;
    const text = right ? `${classes[label]}, ${percent(score)} sure` : `${classes[label]}, said ${classes[said]}, ${percent(score)} sure`;
    return make("li", { class: right ? "right" : "wrong", title: id },
      make("img", { src: image, alt: `Test image ${id}: ${text}` }), make("span", { class: right ? "fine" : "bad" }, right ? "✓ " : "✗ "), text);
  });
  const press = confusionOf(part.dataset.gallery, (a, p) => { actual.value = a; predicted.value = p; only.checked = false; sure.value = 0; show(); part.scrollIntoView({ block: "nearest" }); });
  function show() {
    const chosen = rows.filter(([, label, said, score]) => (!actual.value || classes[label] === actual.value)
      && (!predicted.value || classes[said] === predicted.value) && score >= sure.value / 100 && (!only.checked || label !== said));
    sure.parentElement.querySelector("output").textContent = `${sure.value} %`;
    press(actual.value, predicted.value);
    told.textContent = `${chosen.length} of the ${rows.length} images that the page holds, of ${total} test images with ${wrong} mistakes.`;
    fill(chosen);
  }
  [actual, predicted, sure, only].forEach((control) => control.addEventListener("input", show));
  part.querySelector("[data-clear]").addEventListener("click", () => { actual.value = predicted.value = ""; sure.value = 0; only.checked = false; show(); });
  if (!rows.some(([, label, said]) => label !== said)) only.checked = false;
  show();
}

for (const part of all(".plates")) {
  const { rows, total, wrong } = read(part);
  const sure = part.querySelector("[data-sure]"), only = part.querySelector("[data-wrong]"), told = part.querySelector("[data-told]");
  const fill = gallery(part.querySelector(".gallery"), part.querySelector(".more"), 30, ([id, image, text, truth, score]) => {
    const right = truth === null || truth === text, said = text === "" ? "nothing" : text;
    return make("li", { class: right ? "right" : "wrong", title: id }, make("img", { src: image, alt: `Picture ${id}, read as ${said}` }),
      make("span", { class: right ? "fine" : "bad" }, truth === null ? "" : right ? "✓ " : "✗ "), `${said}${right ? "" : `, is ${truth}`}${text === "" ? "" : `; ${percent(score)} sure`}`);
  });
  const show = () => {
    const chosen = rows.filter(([, , text, truth, score]) => score >= sure.value / 100 && (!only.checked || (truth !== null && truth !== text)));
    sure.parentElement.querySelector("output").textContent = `${sure.value} %`;
    told.textContent = `${chosen.length} of the ${rows.length} pictures that the page holds, of ${total} with ${wrong} misread.`;
    fill(chosen);
  };
  [sure, only].forEach((control) => control.addEventListener("input", show));
  show();
}
