"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, options = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), options);
  element.append(...children);
  return element;
};
const percent = (value) => `${(100 * value).toFixed(value > 0.0995 ? 0 : 1)} %`;
// A number's text; the ? of its doubtful digits is orange.
const spell = (text) => [...text].map((sign) => (sign === "?" ? make("span", { className: "doubtful", textContent: sign }) : sign));

async function post(path, body) {
  let answer;
  try {
    answer = await fetch(path, { method: "POST", body });
  } catch {
    throw new Error("the demo does not answer");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error || `the demo answered ${answer.status}`);
  }
  return answer;
}

let toasting;
// A line that goes after a while; with a button, later.
function toast(text, label = "", action = null) {
  $("toast").replaceChildren(make("span", { textContent: text }));
  if (action) {
    const button = make("button", { type: "button", textContent: label });
    button.addEventListener("click", () => { $("toast").hidden = true; action(); });
    $("toast").append(button);
  }
  $("toast").hidden = false;
  clearTimeout(toasting);
  toasting = setTimeout(() => { $("toast").hidden = true; }, action ? 10000 : 5000);
}

// The live picture: not fetched while nobody sees the page; fetched anew when it broke off.
const live = $("live");
let again;
function watch() {
  clearTimeout(again);
  if (document.hidden) live.removeAttribute("src");
  else live.src = `live.mjpg?${Date.now()}`;
}
live.addEventListener("error", () => { if (!document.hidden) again = setTimeout(watch, 1500); });
document.addEventListener("visibilitychange", watch);
watch();

// What is read.
const events = new EventSource("events");
let told = 0;
let run = "";
let broken = false;
events.onopen = () => { if (broken) { broken = false; watch(); } };
events.onerror = () => {
  broken = true;
  state("away", "offline");
  $("trouble").hidden = false;
  $("trouble").textContent = "The demo does not answer – trying again";
};
events.onmessage = (event) => {
  const said = JSON.parse(event.data);
  const names = { live: "live", opening: "opening the camera", lost: "camera lost", ended: "ended" };
  state(said.state, names[said.state]);
  $("trouble").hidden = said.state !== "lost";
  $("trouble").textContent = `${said.trouble || ""} – trying again`;
  count(said.corrections);
  $("source").textContent = said.size ? `${said.source} · ${said.size[0]} × ${said.size[1]}` : said.source;
  $("rate").textContent = said.rate ? said.rate.toFixed(0) : "–";
  const times = said.milliseconds || {};
  $("total").textContent = times.total === undefined ? "–" : times.total.toFixed(1);
  $("network").textContent = times.network === undefined ? "–" : times.network.toFixed(2);
  $("model").textContent = said.model.name;
  $("hash").textContent = said.model.sha256.slice(0, 16);
  $("hash").title = `SHA-256 ${said.model.sha256}`;
  $("runtime").textContent = said.model.runtime;
  $("refused").hidden = !said.refused;
  $("refused").textContent = `A new model was refused, this one goes on. ${said.refused || ""}`;
  const texts = said.numbers.map((number) => number.text);
  if ($("number").dataset.texts !== texts.join(" ")) {
    $("number").dataset.texts = texts.join(" ");
    $("number").replaceChildren(...texts.map((text) => make("div", {}, ...spell(text))));
    $("number").classList.toggle("many", texts.length > 2 || texts.join("").length > 9);
    $("none").hidden = texts.length > 0;
    document.title = texts.length ? `${texts.join(" ")} – edge-mnist` : "edge-mnist";
  }
  if (said.run !== run) { run = said.run; told = 0; } // a demo that was started anew counts from the beginning
  for (const item of said.history) {
    if (item.count > told) remember(item);
    told = Math.max(told, item.count);
  }
};

function state(kind, text) {
  $("state").dataset.state = kind;
  document.body.classList.toggle("away", kind === "away");
  $("snapshot").disabled = kind === "away" || kind === "opening";
  $("state").lastElementChild.textContent = text;
}

function remember(item) {
  $("empty").hidden = true;
  const number = make("b", {}, ...(item.was ? [make("s", { textContent: item.was })] : []), ...spell(item.number));
  const said = { gone: "gone", unsure: "not sure" }[item.event] || percent(item.confidence);
  const time = make("time", { dateTime: item.time, textContent: `${said} · ${new Date(item.time).toLocaleTimeString([], { hourCycle: "h23" })}` });
  const row = make("li", { className: item.event }, number, time);
  if (item.digits.length) row.append(make("div", { className: "crops" }, ...item.digits.map(crop)));
  $("history").prepend(row);
  while ($("history").children.length > 100) $("history").lastElementChild.remove();
}

// A digit as the network saw it; touched, it can be corrected.
function crop(digit) {
  const said = digit.unsure ? `not sure, perhaps ${digit.label}` : `read as ${digit.label}`;
  const image = make("img", { src: digit.image, alt: said });
  const title = `${said}, ${percent(digit.confidence)}: touch ${digit.unsure ? "to say what it is" : "if that is wrong"}`;
  const button = make("button", { type: "button", title }, image);
  button.classList.toggle("unsure", digit.unsure);
  button.addEventListener("click", () => correct(digit.key, digit.image));
  return button;
}

// What was corrected so far, in all sessions.
function count(saved) {
  const labels = Object.entries(saved);
  const all = labels.reduce((sum, [, number]) => sum + number, 0);
  $("saved").hidden = all === 0;
  $("saved").textContent = `Corrections saved: ${labels.map(([label, number]) => `${number} as ${label}`).join(", ")}`;
}

let correcting;
function correct(key, image) {
  correcting = key;
  $("wrong").src = image;
  $("dialog").showModal();
}
for (const label of ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "none"]) {
  const button = make("button", { type: "button", textContent: label === "none" ? "It is no digit" : label });
  button.dataset.label = label;
  button.addEventListener("click", async () => {
    $("dialog").close();
    const key = correcting;
    try {
      const answer = await (await post("correct", JSON.stringify({ key, label }))).json();
      count(answer.corrections);
      toast(`Saved as ${answer.saved}, for edge-mnist train --extra`, "Undo", () => forget(key));
    } catch (error) {
      toast(error.message);
    }
  });
  $("labels").append(button);
}

async function forget(key) {
  try {
    count((await (await post("correct", JSON.stringify({ key, label: null }))).json()).corrections);
    toast("The correction is undone");
  } catch (error) {
    toast(error.message);
  }
}

function download(name, data) {
  const picture = new Blob([Uint8Array.from(atob(data), (character) => character.charCodeAt(0))], { type: "image/png" });
  const link = make("a", { href: URL.createObjectURL(picture), download: `edge-mnist-${name}.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
$("snapshot").addEventListener("click", async () => {
  try {
    const said = await (await post("snapshot")).json();
    download(said.name, said.plain);
    toast("Snapshot saved, as the camera saw it", "With boxes too", () => download(`${said.name}-read`, said.read));
  } catch (error) {
    toast(error.message);
  }
});

// The pad.
const pad = $("pad");
const pen = pad.getContext("2d");
const small = make("canvas", { width: 112, height: 112 });
const bars = [...Array(10).keys()].map((digit) => {
  const bar = make("i");
  const value = make("em");
  const row = make("li", {}, String(digit), make("span", {}, bar), value);
  $("bars").append(row);
  return { bar, value, row };
});
let pointer = null;
let drawn = false;
let asking = false;
let stale = false;
let drawing = null;

function place(event) {
  const box = pad.getBoundingClientRect();
  return [(event.clientX - box.left) * pad.width / box.width, (event.clientY - box.top) * pad.height / box.height];
}
function stroke(from, to) {
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}
function blank() {
  pen.fillStyle = "#000";
  pen.fillRect(0, 0, pad.width, pad.height);
  Object.assign(pen, { strokeStyle: "#fff", lineWidth: 22, lineCap: "round", lineJoin: "round" });
  drawn = false;
  drawing = null;
  $("hint").hidden = false;
  $("relabel").hidden = true;
  $("verdict").textContent = "The ten probabilities follow your pen.";
  show(null);
}
function show(chances) {
  const best = chances ? chances.indexOf(Math.max(...chances)) : -1;
  bars.forEach(({ bar, value, row }, digit) => {
    bar.style.width = chances ? `${100 * chances[digit]}%` : "0";
    value.textContent = chances ? percent(chances[digit]) : "";
    row.classList.toggle("best", digit === best);
  });
}
async function ask() {
  if (asking) { stale = true; return; }
  asking = true;
  stale = false;
  try {
    small.getContext("2d").drawImage(pad, 0, 0, 112, 112);
    const picture = await new Promise((resolve) => { small.toBlob(resolve, "image/png"); });
    const said = await (await post("pad", picture)).json();
    if (drawn && said.probabilities) {
      const sure = Math.max(...said.probabilities);
      show(said.probabilities);
      drawing = said;
      $("relabel").hidden = false;
      $("verdict").textContent = said.unsure ? "Not sure: is it a digit?" : `It is a ${said.probabilities.indexOf(sure)}.`;
    }
  } catch (error) {
    $("verdict").textContent = error.message;
  }
  asking = false;
  if (stale) setTimeout(ask, 50);
}
pad.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  pad.setPointerCapture(event.pointerId);
  pointer = place(event);
  drawn = true;
  $("hint").hidden = true;
  stroke(pointer, pointer);
  ask();
});
pad.addEventListener("pointermove", (event) => {
  if (!pointer) return;
  for (const step of event.getCoalescedEvents ? event.getCoalescedEvents() : [event]) {
    const next = place(step);
    stroke(pointer, next);
    pointer = next;
  }
  ask();
});
for (const name of ["pointerup", "pointercancel"]) {
  pad.addEventListener(name, () => { if (pointer) { pointer = null; ask(); } });
}
$("clear").addEventListener("click", blank);
$("relabel").addEventListener("click", () => { if (drawing) correct(drawing.key, drawing.image); });
blank();

// Photographs.
const drop = $("drop");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
document.addEventListener("drop", (event) => { if (event.dataTransfer.files[0]) read(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => { if (event.clipboardData.files[0]) read(event.clipboardData.files[0]); });
$("file").addEventListener("change", () => { if ($("file").files[0]) read($("file").files[0]); $("file").value = ""; });

async function read(file) {
  $("photo-text").hidden = true;
  $("photo-digits").replaceChildren();
  $("photo-quiet").textContent = "Reading …";
  try {
    const said = await (await post("photo", file)).json();
    await sketch(file, said);
    drop.classList.add("small");
    $("photo-text").hidden = said.lines.length === 0;
    $("photo-text").replaceChildren(...said.lines.map((line) => make("div", {}, ...spell(line))));
    const doubtful = said.digits.filter((digit) => digit.unsure).length;
    $("photo-quiet").textContent = said.lines.length
      ? `${said.digits.length} digits in ${said.milliseconds.toFixed(0)} ms${doubtful ? `, ${doubtful} of them not sure` : ""}. Touch one that is wrong${doubtful ? " or not sure" : ""}.`
      : "No number found.";
    $("photo-digits").replaceChildren(...said.digits.map(crop));
  } catch (error) {
    $("shown").hidden = true;
    $("photo-quiet").textContent = error.message;
  }
}
async function sketch(file, said) {
  const canvas = $("shown");
  const scale = Math.min(1, 1000 / Math.max(said.width, said.height));
  const picture = await createImageBitmap(file).catch(() => null);
  canvas.hidden = picture === null;
  if (!picture) return;
  canvas.width = Math.round(said.width * scale);
  canvas.height = Math.round(said.height * scale);
  const brush = canvas.getContext("2d");
  brush.drawImage(picture, 0, 0, canvas.width, canvas.height);
  brush.lineWidth = Math.max(2, canvas.width / 300);
  brush.font = `600 ${Math.max(13, canvas.width / 40)}px system-ui, sans-serif`;
  for (const digit of said.digits) {
    const [x, y, w, h] = digit.box.map((value) => value * scale);
    brush.strokeStyle = brush.fillStyle = digit.unsure ? "#d97706" : "#0b8a4b";
    brush.strokeRect(x - 2, y - 2, w + 4, h + 4);
    brush.fillText(`${digit.label}${digit.unsure ? "?" : ""}`, x, y - 6);
  }
}
