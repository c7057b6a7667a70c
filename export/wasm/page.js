"use strict";
const $ = (id) => document.getElementById(id);

function createElement(tag, options = {}, ...children) {
  const element = Object.assign(document.createElement(tag), options);
  element.append(...children);
  return element;
}

function decodeBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function formatPercent(value) {
  return `${(100 * value).toFixed(value > 0.0995 ? 0 : 1)} %`;
}

function formatTime(milliseconds) {
  return milliseconds < 1 ? `${(1000 * milliseconds).toFixed(0)} µs` : `${milliseconds.toFixed(2)} ms`;
}

function showTrouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// --- The proof -----------------------------------------------------------------------------------------------------

// SHA-256 (FIPS 180-4). The browser's own is missing where the page came over HTTP.
function sha256(bytes) {
  const primes = [];
  for (let n = 2; primes.length < 64; ++n) if (primes.every((prime) => n % prime)) primes.push(n);
  const fraction = (x) => Math.floor((x - Math.floor(x)) * 2 ** 32) | 0;
  const constants = primes.map((prime) => fraction(Math.cbrt(prime)));
  const state = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
  const padded = new Uint8Array(Math.ceil((bytes.length + 9) / 64) * 64);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(padded.length - 4, (bytes.length << 3) >>> 0);
  const rotate = (x, by) => (x >>> by) | (x << (32 - by));
  const w = new Int32Array(64);
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; ++i) w[i] = view.getInt32(block + 4 * i);
    for (let i = 16; i < 64; ++i) {
      const s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >>> 3);
      const s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >>> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; ++i) {
      const s1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + constants[i] + w[i]) | 0;
      const s0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => { state[i] = (state[i] + value) | 0; });
  }
  return state.map((value) => (value >>> 0).toString(16).padStart(8, "0")).join("");
}

// Let the browser draw and react between two pieces of work.
const pause = () => new Promise((resolve) => { setTimeout(resolve); });

// Run the golden inputs; the hash of all outputs.
async function hashOutputs(network, golden, inputs) {
  const size = network.input.length;
  const outputs = new Int8Array(golden.count * network.output.length);
  let start = performance.now();
  for (let i = 0; i < golden.count; ++i) {
    outputs.set(network.run(inputs.subarray(i * size, (i + 1) * size)), i * network.output.length);
    if (performance.now() - start > 50) {
      await pause();
      start = performance.now();
    }
  }
  return sha256(new Uint8Array(outputs.buffer));
}

// The median time of an inference in milliseconds, measured over groups that are long enough for the browser's clock.
async function measureTime(network, input) {
  const times = [];
  let runs = 1;
  while (times.length < 15) {
    const start = performance.now();
    for (let i = 0; i < runs; ++i) network.run(input);
    const elapsed = performance.now() - start;
    if (elapsed < 8) {
      runs *= 2;
      continue;
    }
    times.push(elapsed / runs);
    await pause();
  }
  return times.sort((a, b) => a - b)[7];
}

// Run the golden inputs of a network's modules, and show for each module whether the outputs are those of the export.
async function prove(networks, golden, inputs, title = "") {
  const areInputsRight = sha256(inputs) === golden.inputs_sha256;
  for (const [index, network] of networks.entries()) {
    const name = networks.length > 1 && index === 0 ? "with SIMD128" : "without SIMD";
    const hash = await hashOutputs(network, golden, inputs);
    const isRight = areInputsRight && hash === golden.outputs_sha256;
    const text = isRight ? `✓ ${golden.count} of ${golden.count} the same` : "✗ they differ from the export's";
    const time = await measureTime(network, inputs.subarray(0, network.input.length));
    const check = createElement("td", { className: isRight ? "pass" : "fail", textContent: text });
    check.dataset.hash = hash;
    $("checks").append(createElement("tr", {}, createElement("th", { scope: "row", textContent: title + name }), check,
      createElement("td", { textContent: formatTime(time) })));
  }
}

// Say what was compared.
function describeProof({ golden, finder }, networks) {
  const some = golden.count < golden.of ? `the first ${golden.count} of the ${golden.of}` : `the ${golden.count}`;
  $("proof").textContent = `The page ran ${some} golden inputs of the export, and compared the SHA-256 of all int8 outputs with that ` +
    "of the export." + (finder ? ` The finder ran ${finder.golden.count} canvases that the page composed of these inputs.` : "") +
    (networks.length > 1 ? "" : " This browser has no SIMD128.");
  const hashes = { "Golden inputs": golden.inputs_sha256, "Their outputs": golden.outputs_sha256 };
  if (finder) Object.assign(hashes, { "The finder's canvases": finder.golden.inputs_sha256, "Their outputs, of the finder": finder.golden.outputs_sha256 });
  for (const [name, hash] of Object.entries(hashes)) {
    $("hashes").append(createElement("dt", { textContent: name }), createElement("dd", { textContent: hash }));
  }
}

// Compose the golden canvases of the finder of golden images, (28, 28) each: side by side, every second canvas inverted.
function drawGoldenCanvases(settings, golden, images, count) {
  const { CANVAS_WIDTH, CANVAS_HEIGHT, BEYOND } = settings.finder_map, side = settings.digit_images.SIZE;
  const across = Math.floor(CANVAS_WIDTH / side), down = Math.floor(CANVAS_HEIGHT / side);
  return Array.from({ length: count }, (_, number) => {
    const canvas = new Uint8Array(CANVAS_WIDTH * CANVAS_HEIGHT).fill(BEYOND);
    for (let place = 0; place < across * down; ++place) {
      const image = images.subarray(((place + 16 * number) % golden.count) * side * side);
      const left = side * (place % across), top = side * Math.floor(place / across);
      for (let y = 0; y < side; ++y) for (let x = 0; x < side; ++x) {
        const value = image[y * side + x];
        canvas[(top + y) * CANVAS_WIDTH + left + x] = number % 2 ? 255 - value : value;
      }
    }
    return canvas;
  });
}

// --- Pictures ------------------------------------------------------------------------------------------------------

// The pixels of a canvas in grey, as ITU-R BT.601 weighs the colours.
function readGrey(canvas) {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const plane = new Plane(width, height);
  for (let i = 0; i < plane.values.length; ++i) {
    plane.values[i] = 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
  }
  return plane;
}

// Draw uint8 values in grey on a canvas of their size.
function drawGrey(canvas, values, width, height) {
  Object.assign(canvas, { width, height });
  const picture = new ImageData(width, height);
  for (let i = 0; i < width * height; ++i) picture.data.set([values[i], values[i], values[i], 255], 4 * i);
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

// --- What the page shows -------------------------------------------------------------------------------------------

// Bars of the classes of `list`, an ordered list; the result shows probabilities in them, the most probable `count`.
function makeBars(list, count, isSorted) {
  const bars = Array.from({ length: count }, () => {
    const [name, bar, value] = ["span", "i", "em"].map((tag) => createElement(tag));
    const row = createElement("li", {}, name, createElement("span", {}, bar), value);
    list.append(row);
    return { row, name, bar, value };
  });
  return (probabilities) => {
    const order = [...(probabilities || Array(count).fill(0)).keys()];
    if (probabilities && isSorted) order.sort((a, b) => probabilities[b] - probabilities[a]);
    const best = probabilities ? Math.max(...probabilities) : 2;
    bars.forEach(({ row, name, bar, value }, index) => {
      const chosen = order[index], probability = probabilities ? probabilities[chosen] : 0;
      name.textContent = chosen;
      bar.style.width = `${100 * probability}%`;
      value.textContent = probabilities ? formatPercent(probability) : "";
      row.classList.toggle("best", probability === best);
    });
  };
}

// How many canvases beyond the first the finder looks at in a frame of the camera, so that a phone shows several a second.
const LIVE_LOOKS = 2;

// The longer side, in pixels, to which a digit on the pad is reduced before it is placed as those of pictures are.
const RESOLUTION = 40;

// The pad: what is drawn is read as the pen moves.
function startPad(network, reader) {
  const pad = $("pad"), pen = pad.getContext("2d", { willReadFrequently: true });
  const showBars = makeBars($("bars"), 10, false);
  let last = null;

  function clear() {
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, pad.width, pad.height);
    Object.assign(pen, { strokeStyle: "#fff", lineWidth: 22, lineCap: "round", lineJoin: "round" });
    $("digit").textContent = "";
    $("hint").hidden = false;
    drawGrey($("seen"), new Uint8Array(784), 28, 28);
    showBars(null);
  }

  function read() {
    const ink = readGrey(pad);
    const box = ink.map((value) => Math.max(value - 63, 0)).findBox();
    if (!box) return;
    const digit = ink.cut(box.left, box.top, box.right - box.left, box.bottom - box.top);
    const reduce = Math.max(1, Math.max(digit.width, digit.height) / RESOLUTION);
    const size = [digit.width, digit.height].map((side) => Math.max(1, Math.round(side / reduce)));
    const image = reader.placeDigit(digit.resize(...size, weighArea).map(toByte));
    const probabilities = network.classify(image);
    drawGrey($("seen"), image, 28, 28);
    $("digit").textContent = probabilities.indexOf(Math.max(...probabilities));
    showBars(probabilities);
  }

  function draw(event) {
    const box = pad.getBoundingClientRect();
    const point = [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
    pen.beginPath();
    pen.moveTo(...(last || point));
    pen.lineTo(...point);
    pen.stroke();
    last = point;
  }

  pad.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    pad.setPointerCapture(event.pointerId);
    last = null;
    $("hint").hidden = true;
    draw(event);
    read();
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const step of event.getCoalescedEvents ? event.getCoalescedEvents() : [event]) draw(step);
    read();
  });
  for (const name of ["pointerup", "pointercancel"]) pad.addEventListener(name, () => { last = null; });
  $("clear").addEventListener("click", clear);
  clear();
  $("drawing").hidden = false;
}

// Draw a picture on a canvas, so that its longer side has at most `longest` pixels.
function drawPicture(canvas, picture, width, height, longest) {
  const scale = Math.min(1, longest / Math.max(width, height));
  Object.assign(canvas, { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) });
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  brush.imageSmoothingQuality = "high";
  brush.drawImage(picture, 0, 0, canvas.width, canvas.height);
}

// Read the numbers on a picture, and show its digits. Of two pictures the later one is shown. `looks` is as of `read`.
let pictures = 0;
async function readNumbers(network, finder, reader, settings, looks, picture, width, height) {
  const own = ++pictures, canvas = createElement("canvas");
  drawPicture(canvas, picture, width, height, settings.reader.finest);
  const { output_scale: scale, output_zero_point: zero } = finder.contract;
  const look = async (places) => {
    await pause();
    return Float32Array.from(finder.run(places), (value) => scale * (value - zero));
  };
  const grey = readGrey(canvas).map(Math.round);
  const { text, digits } = await reader.read(grey, look, (image) => network.classify(image), looks);
  if (own !== pictures) return;
  const brush = canvas.getContext("2d");
  brush.lineWidth = Math.max(2, canvas.width / 300);
  for (const { box, isDoubtful } of digits) {
    brush.strokeStyle = isDoubtful ? "#c2410c" : "#0b8a4b";
    brush.strokeRect(box.left, box.top, box.right - box.left, box.bottom - box.top);
  }
  drawPicture($("picture"), canvas, canvas.width, canvas.height, 800);
  $("crops").replaceChildren(...digits.map(({ image, label, certainty, isDoubtful }) => {
    const crop = createElement("canvas");
    drawGrey(crop, image, 28, 28);
    return createElement("figure", {}, crop, `${isDoubtful ? `${settings.reader.DOUBTFUL} (${label})` : label}: ${formatPercent(certainty)}`);
  }));
  $("picture").hidden = false;
  $("number").textContent = text || "no number";
}

// A smaller input is enlarged so that its longer side has about so many pixels of the screen.
const SMALL = 256;

// Give a picture to a network of another input: the middle of it, resized to the input's size.
function readPicture(network, showClasses, picture, width, height) {
  const [channels, rows, columns] = network.contract.input_shape;
  const scale = Math.max(columns / width, rows / height);
  const canvas = createElement("canvas", { width: columns, height: rows });
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  brush.imageSmoothingQuality = "high";
  brush.drawImage(picture, (columns - scale * width) / 2, (rows - scale * height) / 2, scale * width, scale * height);
  const values = new Uint8Array(rows * columns * channels);
  if (channels === 1) {
    readGrey(canvas).values.forEach((value, i) => { values[i] = Math.round(value); });
  } else {
    const { data } = brush.getImageData(0, 0, columns, rows);
    for (let i = 0; i < rows * columns; ++i) values.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  }
  drawPicture($("picture"), canvas, columns, rows, 800);
  const enlarge = Math.max(1, Math.floor(SMALL / Math.max(columns, rows)));
  $("picture").style.width = enlarge > 1 ? `${enlarge * columns}px` : "";
  $("picture").classList.toggle("enlarged", enlarge > 1);
  $("picture").hidden = false;
  if (showClasses) {
    const probabilities = network.classify(values);
    $("number").textContent = `class ${probabilities.indexOf(Math.max(...probabilities))}`;
    showClasses(probabilities);
  } else {
    showMaps(network, network.run(values));
  }
}

// Show the first maps of an output, beside each other, each value as grey.
function showMaps(network, outputs) {
  const [channels, height, width] = network.contract.output_shape;
  const count = Math.min(channels, Math.max(1, Math.floor(640 / width)));
  const grey = new Uint8Array(height * width * count);
  for (let channel = 0; channel < count; ++channel) {
    for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) {
      grey[(y * count + channel) * width + x] = outputs[(channel * height + y) * width + x] + 128;
    }
  }
  drawGrey($("maps"), grey, width * count, height);
  $("maps").hidden = false;
  $("number").textContent = "";
  $("limits").textContent = `The output is ${channels} maps of ${height}x${width}; above are ${count} of them.`;
}

// Pictures that are chosen, dropped or pasted, and those of the camera; `read` takes whether it is a camera's, a picture,
// its width and its height.
function startPictures(read) {
  const drop = $("drop");
  let stream = null;

  async function open(files) {
    if (!files[0]) return;
    stopCamera();
    const picture = await createImageBitmap(files[0]).catch(() => null);
    showTrouble(picture ? "" : `${files[0].name}: is not a picture that this browser can read`);
    if (picture) await read(false, picture, picture.width, picture.height);
  }

  function stopCamera() {
    if (stream) stream.getTracks().forEach((track) => track.stop());
    stream = null;
    $("video").hidden = true;
    $("camera").textContent = "Use the camera";
  }

  async function startCamera() {
    try {
      if (!navigator.mediaDevices) throw new Error("this browser gives its camera to pages over HTTPS only");
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      showTrouble(`The camera cannot be used: ${error.message}.`);
      return;
    }
    showTrouble("");
    const video = $("video");
    Object.assign(video, { srcObject: stream, hidden: false });
    $("camera").textContent = "Stop the camera";
    await video.play();
    while (stream && stream.active) {
      await read(true, video, video.videoWidth, video.videoHeight);
      await new Promise((resolve) => { setTimeout(resolve, 100); });
    }
  }

  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  }
  document.addEventListener("drop", (event) => open(event.dataTransfer.files));
  document.addEventListener("paste", (event) => open(event.clipboardData.files));
  $("file").addEventListener("change", () => { open($("file").files); $("file").value = ""; });
  $("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));
  $("pictures").hidden = false;
}

async function start() {
  const data = JSON.parse($("data").textContent);
  const { golden, settings } = data, bytes = decodeBase64(data.module), inputs = decodeBase64(golden.inputs);
  const networks = await openNetworks(bytes);
  const finders = data.finder ? await openNetworks(decodeBase64(data.finder.module)) : [];
  const [network] = networks, [finder] = finders; // the fastest ones
  const { input_shape: shape, output_shape: maps, input_scale: scale, model } = network.contract;
  const isPicture = shape.length === 3 && scale === undefined && [1, 3].includes(shape[0]);
  const showModel = (hash) => createElement("code", { textContent: hash.slice(0, 12), title: `the SHA-256 of its graph begins with ${hash}` });
  $("about").replaceChildren(`This file holds an int8 network for inputs of ${shape.join("x")} (`, showModel(model),
    `), ${bytes.length.toLocaleString("en")} bytes of WebAssembly, `,
    ...(finder ? ["the network that finds digits in pictures (", showModel(finder.contract.model), "), "] : []),
    "and all else that the page needs. It works without a server and without a connection.");
  const reader = finder && makeReader(settings);
  if (finder) {
    startPad(network, reader);
    startPictures((isCamera, ...picture) => readNumbers(network, finder, reader, settings, isCamera ? LIVE_LOOKS : undefined, ...picture));
    $("limits").textContent = "It reads the numbers of a page that is about level, line by line. A digit that it is not sure of is " +
      "shown as ?. It does not read letters, signs or decimal points; the demo of edge-mnist reads turned pages and columns too.";
  } else if (isPicture) {
    $("pictures-title").textContent = "Give it a picture";
    $("classes").hidden = Boolean(maps);
    const showClasses = maps ? null : makeBars($("classes"), Math.min(5, network.output.length), true);
    startPictures((_, ...picture) => readPicture(network, showClasses, ...picture));
    $("limits").textContent = "The middle of the picture is resized to the input of the network.";
  }
  await prove(networks, golden, inputs);
  if (finder) {
    const canvases = drawGoldenCanvases(settings, golden, inputs, data.finder.golden.count).flatMap((canvas) => [...reader.splitPlaces(canvas)]);
    await prove(finders, data.finder.golden, Uint8Array.from(canvases), "finder ");
  }
  describeProof(data, networks);
  document.body.dataset.ready = "true";
}

start().catch((error) => showTrouble(`The page cannot run here: ${error.message}`));
