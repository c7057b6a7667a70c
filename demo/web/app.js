"use strict";
const $ = (id) => document.getElementById(id);

function createElement(tag, options = {}, ...children) {
  const element = Object.assign(document.createElement(tag), options);
  element.append(...children);
  return element;
}

function formatPercent(value) {
  return `${(100 * value).toFixed(value > 0.0995 ? 0 : 1)} %`;
}

// Split the text of a number into nodes, in which the ? of a doubtful digit is orange.
function markDoubtful(text) {
  return [...text].map((sign) => (sign === "?" ? createElement("span", { className: "doubtful", textContent: sign }) : sign));
}

// Send a POST request. The message of an error is meant for the visitor.
async function post(path, body) {
  let response;
  try {
    response = await fetch(path, { method: "POST", body });
  } catch {
    throw new Error("the demo does not answer");
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.error || `the demo answered ${response.status}`);
  }
  return response.json();
}

// Show a message for some seconds; with a button it stays for longer.
let toastTimer;
function showToast(text, label = "", action = null) {
  $("toast").replaceChildren(createElement("span", { textContent: text }));
  if (action) {
    const button = createElement("button", { type: "button", textContent: label });
    button.addEventListener("click", () => { $("toast").hidden = true; action(); });
    $("toast").append(button);
  }
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, action ? 10000 : 5000);
}

// The live picture: it is not loaded while the page is hidden, and loaded again after it broke off.
const live = $("live");
let liveTimer;
function loadLivePicture() {
  clearTimeout(liveTimer);
  if (document.hidden) live.removeAttribute("src");
  else live.src = `live.mjpg?${Date.now()}`;
}
live.addEventListener("error", () => { if (!document.hidden) liveTimer = setTimeout(loadLivePicture, 1500); });
document.addEventListener("visibilitychange", loadLivePicture);
loadLivePicture();

// The status and the history.
const STATE_TEXTS = { live: "live", opening: "opening the camera", lost: "camera lost", ended: "ended" };
const MAX_HISTORY = 100;
const events = new EventSource("events");
let lastCount = 0; // the "count" of the last event that was shown
let run = ""; // changes when the demo is restarted
let isOffline = false;

events.onopen = () => { if (isOffline) { isOffline = false; loadLivePicture(); } };
events.onerror = () => {
  isOffline = true;
  showState("away", "offline");
  $("trouble").hidden = false;
  $("trouble").textContent = "The demo does not answer – trying again";
};
events.onmessage = (message) => {
  const status = JSON.parse(message.data);
  showState(status.state, STATE_TEXTS[status.state]);
  $("trouble").hidden = status.state !== "lost";
  $("trouble").textContent = `${status.trouble || ""} – trying again`;
  showCorrections(status.corrections);
  $("source").textContent = status.size ? `${status.source} · ${status.size[0]} × ${status.size[1]}` : status.source;
  $("rate").textContent = status.rate ? status.rate.toFixed(0) : "–";
  const times = status.milliseconds || {};
  $("total").textContent = times.total === undefined ? "–" : times.total.toFixed(1);
  $("network").textContent = times.network === undefined ? "–" : times.network.toFixed(2);
  $("model").textContent = status.model.name;
  $("hash").textContent = status.model.sha256.slice(0, 16);
  $("hash").title = `SHA-256 ${status.model.sha256}`;
  $("runtime").textContent = status.model.runtime;
  $("refused").hidden = !status.refused;
  $("refused").textContent = `A new model was refused, and this one is still used. ${status.refused || ""}`;
  showNumbers(status.numbers.map((number) => number.text));
  if (status.run !== run) { // after a restart the demo counts its events from the beginning
    run = status.run;
    lastCount = 0;
  }
  for (const event of status.history) {
    if (event.count > lastCount) addToHistory(event);
    lastCount = Math.max(lastCount, event.count);
  }
};

function showState(state, text) {
  $("state").dataset.state = state;
  document.body.classList.toggle("away", state === "away");
  $("snapshot").disabled = state === "away" || state === "opening";
  $("state").lastElementChild.textContent = text;
}

function showNumbers(texts) {
  if ($("number").dataset.texts === texts.join(" ")) return;
  $("number").dataset.texts = texts.join(" ");
  $("number").replaceChildren(...texts.map((text) => createElement("div", {}, ...markDoubtful(text))));
  $("number").classList.toggle("many", texts.length > 2 || texts.join("").length > 9);
  $("none").hidden = texts.length > 0;
  document.title = texts.length ? `${texts.join(" ")} – edge-mnist` : "edge-mnist";
}

function addToHistory(event) {
  $("empty").hidden = true;
  const clock = new Date(event.time).toLocaleTimeString([], { hourCycle: "h23" });
  const last = event.event === "gone" && [...$("history").children].find((row) => row.dataset.id === `${run} ${event.id}`);
  if (last) { // what is gone is said where the number was read, so that more numbers are in view
    last.classList.add("gone");
    last.querySelector("time").textContent += ` · gone ${clock}`;
    return;
  }
  const before = event.was ? [createElement("s", { textContent: event.was })] : [];
  const number = createElement("b", {}, ...before, ...markDoubtful(event.number));
  const result = { gone: "gone", unsure: "not sure" }[event.event] || formatPercent(event.confidence);
  const time = createElement("time", { dateTime: event.time, textContent: `${result} · ${clock}` });
  const row = createElement("li", { className: event.event }, number, time);
  row.dataset.id = `${run} ${event.id}`;
  if (event.digits.length) row.append(createElement("div", { className: "crops" }, ...event.digits.map(createDigitButton)));
  $("history").prepend(row);
  while ($("history").children.length > MAX_HISTORY) $("history").lastElementChild.remove();
}

// Create a button with a digit as the network saw it, which opens the dialog for a correction.
function createDigitButton(digit) {
  const label = digit.unsure ? `not sure, perhaps ${digit.label}` : `read as ${digit.label}`;
  const image = createElement("img", { src: digit.image, alt: label });
  const title = `${label}, ${formatPercent(digit.confidence)}: touch it ${digit.unsure ? "to say what it is" : "if that is wrong"}`;
  const button = createElement("button", { type: "button", title }, image);
  button.classList.toggle("unsure", digit.unsure);
  button.addEventListener("click", () => openCorrection(digit.key, digit.image));
  return button;
}

// Corrections.
let correctedKey; // the key of the digit in the dialog
function openCorrection(key, image) {
  correctedKey = key;
  $("wrong").src = image;
  $("dialog").showModal();
}

// Show how many digits were corrected so far, also before the demo was started.
function showCorrections(saved) {
  const labels = Object.entries(saved);
  $("saved").hidden = labels.length === 0;
  $("saved").textContent = `Corrections saved: ${labels.map(([label, count]) => `${count} as ${label}`).join(", ")}`;
}

for (const label of ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "none"]) {
  const button = createElement("button", { type: "button", textContent: label === "none" ? "It is not a digit" : label });
  button.dataset.label = label;
  button.addEventListener("click", async () => {
    $("dialog").close();
    const key = correctedKey;
    try {
      const answer = await post("correct", JSON.stringify({ key, label }));
      showCorrections(answer.corrections);
      showToast(`Saved as ${answer.saved}, for edge-mnist train --user-digits`, "Undo", () => undoCorrection(key));
    } catch (error) {
      showToast(error.message);
    }
  });
  $("labels").append(button);
}

async function undoCorrection(key) {
  try {
    showCorrections((await post("correct", JSON.stringify({ key, label: null }))).corrections);
    showToast("The correction is undone");
  } catch (error) {
    showToast(error.message);
  }
}

// Snapshots.
function downloadPicture(name, base64) {
  const picture = new Blob([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], { type: "image/png" });
  const link = createElement("a", { href: URL.createObjectURL(picture), download: `edge-mnist-${name}.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

$("snapshot").addEventListener("click", async () => {
  try {
    const answer = await post("snapshot");
    downloadPicture(answer.name, answer.plain);
    showToast("Snapshot saved, as the camera saw it", "With boxes too", () => downloadPicture(`${answer.name}-read`, answer.read));
  } catch (error) {
    showToast(error.message);
  }
});

// The drawing pad.
const pad = $("pad");
const pen = pad.getContext("2d");
const reducedPad = createElement("canvas", { width: 112, height: 112 }); // what is sent
const bars = [...Array(10).keys()].map((digit) => {
  const bar = createElement("i");
  const value = createElement("em");
  const row = createElement("li", {}, String(digit), createElement("span", {}, bar), value);
  $("bars").append(row);
  return { bar, value, row };
});
let lastPoint = null; // where the pen is while it is down
let hasInk = false;
let isClassifying = false;
let isOutdated = false; // whether something was drawn since the last request was sent
let classified = null; // the last answer

function findPoint(event) {
  const box = pad.getBoundingClientRect();
  return [(event.clientX - box.left) * pad.width / box.width, (event.clientY - box.top) * pad.height / box.height];
}

function drawLine(from, to) {
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

function clearPad() {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, pad.width, pad.height);
  Object.assign(pen, { strokeStyle: "#fff", lineWidth: 22, lineCap: "round", lineJoin: "round" });
  hasInk = false;
  classified = null;
  $("hint").hidden = false;
  $("relabel").hidden = true;
  $("verdict").textContent = "The ten probabilities follow your pen.";
  showProbabilities(null);
}

function showProbabilities(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  bars.forEach(({ bar, value, row }, digit) => {
    bar.style.width = probabilities ? `${100 * probabilities[digit]}%` : "0";
    value.textContent = probabilities ? formatPercent(probabilities[digit]) : "";
    row.classList.toggle("best", digit === best);
  });
}

// Send the drawing, one request at a time; what is drawn meanwhile is sent afterwards.
async function classifyDrawing() {
  if (isClassifying) { isOutdated = true; return; }
  isClassifying = true;
  isOutdated = false;
  try {
    reducedPad.getContext("2d").drawImage(pad, 0, 0, reducedPad.width, reducedPad.height);
    const picture = await new Promise((resolve) => { reducedPad.toBlob(resolve, "image/png"); });
    const answer = await post("pad", picture);
    if (hasInk && answer.probabilities) {
      const best = answer.probabilities.indexOf(Math.max(...answer.probabilities));
      showProbabilities(answer.probabilities);
      classified = answer;
      $("relabel").hidden = false;
      $("verdict").textContent = answer.unsure ? "Not sure: is it a digit?" : `It is a ${best}.`;
    }
  } catch (error) {
    $("verdict").textContent = error.message;
  }
  isClassifying = false;
  if (isOutdated) setTimeout(classifyDrawing, 50);
}

pad.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  pad.setPointerCapture(event.pointerId);
  lastPoint = findPoint(event);
  hasInk = true;
  $("hint").hidden = true;
  drawLine(lastPoint, lastPoint);
  classifyDrawing();
});
pad.addEventListener("pointermove", (event) => {
  if (!lastPoint) return;
  for (const step of event.getCoalescedEvents ? event.getCoalescedEvents() : [event]) {
    const point = findPoint(step);
    drawLine(lastPoint, point);
    lastPoint = point;
  }
  classifyDrawing();
});
for (const name of ["pointerup", "pointercancel"]) {
  pad.addEventListener(name, () => { if (lastPoint) { lastPoint = null; classifyDrawing(); } });
}
$("clear").addEventListener("click", clearPad);
$("relabel").addEventListener("click", () => { if (classified) openCorrection(classified.key, classified.image); });
clearPad();

// Photographs: chosen, dropped or pasted.
const drop = $("drop");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
document.addEventListener("drop", (event) => readFirst(event.dataTransfer.files));
document.addEventListener("paste", (event) => readFirst(event.clipboardData.files));
$("file").addEventListener("change", () => { readFirst($("file").files); $("file").value = ""; });

function readFirst(files) {
  if (files[0]) readPhotograph(files[0]);
}

async function readPhotograph(file) {
  $("photo-text").hidden = true;
  $("photo-digits").replaceChildren();
  $("photo-quiet").textContent = "Reading …";
  try {
    const answer = await post("photo", file);
    await drawPhotograph(file, answer);
    drop.classList.add("small");
    $("photo-text").hidden = answer.lines.length === 0;
    const lines = answer.lines.map((_, index) => answer.numbers.filter(({ line }) => line === index).map(({ text }) => text));
    $("photo-text").replaceChildren(...lines.map((line) => createElement("div", {}, ...markDoubtful(line.join(" ")))));
    const doubtful = answer.digits.filter((digit) => digit.unsure).length;
    const time = `${answer.digits.length} digits in ${answer.milliseconds.toFixed(0)} ms`;
    const text = doubtful
      ? `${time}, ${doubtful} of them not sure. Touch one that is wrong or not sure.`
      : `${time}. Touch one that is wrong.`;
    $("photo-quiet").textContent = answer.lines.length ? text : "No number found.";
    $("photo-digits").replaceChildren(...answer.digits.map(createDigitButton));
  } catch (error) {
    $("shown").hidden = true;
    $("photo-quiet").textContent = error.message;
  }
}

// Show a photograph with the boxes of its digits, if the browser can open it.
async function drawPhotograph(file, answer) {
  const canvas = $("shown");
  const scale = Math.min(1, 1000 / Math.max(answer.width, answer.height));
  const picture = await createImageBitmap(file).catch(() => null);
  canvas.hidden = picture === null;
  if (!picture) return;
  canvas.width = Math.round(answer.width * scale);
  canvas.height = Math.round(answer.height * scale);
  const brush = canvas.getContext("2d");
  brush.drawImage(picture, 0, 0, canvas.width, canvas.height);
  brush.lineWidth = Math.max(2, canvas.width / 300);
  brush.font = `600 ${Math.max(13, canvas.width / 40)}px system-ui, sans-serif`;
  for (const digit of answer.digits) {
    const [x, y, width, height] = digit.box.map((value) => value * scale);
    brush.strokeStyle = brush.fillStyle = digit.unsure ? "#d97706" : "#0b8a4b";
    brush.strokeRect(x - 2, y - 2, width + 4, height + 4);
    brush.fillText(`${digit.label}${digit.unsure ? "?" : ""}`, x, y - 6);
  }
}
