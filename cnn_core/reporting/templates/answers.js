// The predictions of a classifier, in a gallery filtered by class, confidence and mistakes; and the numbers read.
for (const part of all(".answers")) {
  const { classes, rows, total, wrong } = read(part);
  const [actual, predicted, sure, only] = ["[data-actual]", "[data-predicted]", "[data-sure]", "[data-wrong]"].map((name) => part.querySelector(name));
  const status = part.querySelector("[data-status]");
  options(actual, classes, "any");
  options(predicted, classes, "any");
  const fill = gallery(part.querySelector(".gallery"), part.querySelector(".more"), 48, ([id, label, predicted, score, image]) => {
    const right = label === predicted;
    const text = right ? `${classes[label]}, ${percent(score)} sure` : `${classes[label]}, predicted ${classes[predicted]}, ${percent(score)} sure`;
    return make("li", { class: right ? "right" : "wrong", title: id },
      make("img", { src: image, alt: `Test image ${id}: ${text}` }), make("span", { class: right ? "fine" : "bad" }, right ? "✓ " : "✗ "), text);
  });
  const press = confusionOf(part.dataset.gallery, (a, p) => { actual.value = a; predicted.value = p; only.checked = false; sure.value = 0; show(); part.scrollIntoView({ block: "nearest" }); });
  function show() {
    const chosen = rows.filter(([, label, answer, score]) => (!actual.value || classes[label] === actual.value)
      && (!predicted.value || classes[answer] === predicted.value) && score >= sure.value / 100 && (!only.checked || label !== answer));
    sure.parentElement.querySelector("output").textContent = `${sure.value} %`;
    press(actual.value, predicted.value);
    status.textContent = `${chosen.length} of the ${rows.length} images on this page, from ${total} test images with ${wrong} mistakes.`;
    fill(chosen);
  }
  [actual, predicted, sure, only].forEach((control) => control.addEventListener("input", show));
  part.querySelector("[data-clear]").addEventListener("click", () => { actual.value = predicted.value = ""; sure.value = 0; only.checked = false; show(); });
  if (!rows.some(([, label, answer]) => label !== answer)) only.checked = false;
  show();
}

for (const part of all(".plates")) {
  const { rows, total, wrong } = read(part);
  const sure = part.querySelector("[data-sure]"), only = part.querySelector("[data-wrong]"), status = part.querySelector("[data-status]");
  const fill = gallery(part.querySelector(".gallery"), part.querySelector(".more"), 30, ([id, image, text, truth, score]) => {
    const right = truth === null || truth === text, shown = text === "" ? "nothing" : text;
    return make("li", { class: right ? "right" : "wrong", title: id }, make("img", { src: image, alt: `Picture ${id}, read as ${shown}` }),
      make("span", { class: right ? "fine" : "bad" }, truth === null ? "" : right ? "✓ " : "✗ "), `${shown}${right ? "" : `, is ${truth}`}${text === "" ? "" : `; ${percent(score)} sure`}`);
  });
  const show = () => {
    const chosen = rows.filter(([, , text, truth, score]) => score >= sure.value / 100 && (!only.checked || (truth !== null && truth !== text)));
    sure.parentElement.querySelector("output").textContent = `${sure.value} %`;
    status.textContent = `${chosen.length} of the ${rows.length} pictures on this page, from ${total} with ${wrong} misread.`;
    fill(chosen);
  };
  [sure, only].forEach((control) => control.addEventListener("input", show));
  show();
}
