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

async function prove(networks, golden) {
  const inputs = decodeBase64(golden.inputs);
  const areInputsRight = sha256(inputs) === golden.inputs_sha256;
  for (const [index, network] of networks.entries()) {
    const name = networks.length > 1 && index === 0 ? "with SIMD128" : "without SIMD";
    const hash = await hashOutputs(network, golden, inputs);
    const isRight = areInputsRight && hash === golden.outputs_sha256;
    const text = isRight ? `✓ ${golden.count} of ${golden.count} the same` : "✗ they differ from the export's";
    const time = await measureTime(network, inputs.subarray(0, network.input.length));
    const check = createElement("td", { className: isRight ? "pass" : "fail", textContent: text });
    check.dataset.hash = hash;
    $("checks").append(createElement("tr", {}, createElement("th", { scope: "row", textContent: name }), check,
      createElement("td", { textContent: formatTime(time) })));
  }
  const some = golden.count < golden.of ? `, the first ${golden.count} of ${golden.of},` : "";
  $("hashes").textContent = `The page ran the golden inputs of the export${some} whose SHA-256 is ${golden.inputs_sha256}, ` +
    `and compared the SHA-256 of all int8 outputs with that of the export: ${golden.outputs_sha256}.` +
    (networks.length > 1 ? "" : " This browser has no SIMD128.");
}

// --- Pictures ------------------------------------------------------------------------------------------------------

// A map of numbers: ink, from 0 to 255, or grey.
class Plane {
  constructor(width, height, values = new Float32Array(width * height)) {
    Object.assign(this, { width, height, values });
  }

  // Resize to another size; each value is the mean of the area that it covers.
  resize(width, height) {
    const shrink = (from, length, to, stride, lines, step) => { // along one direction
      const result = new Float32Array(lines * to);
      for (let i = 0; i < to; ++i) {
        const start = (i * length) / to, end = ((i + 1) * length) / to;
        for (let at = Math.floor(start); at < Math.min(Math.ceil(end), length); ++at) {
          const part = (Math.min(at + 1, end) - Math.max(at, start)) / (end - start);
          for (let line = 0; line < lines; ++line) result[line * to + i] += part * from[line * step + at * stride];
        }
      }
      return result;
    };
    const rows = shrink(this.values, this.width, width, 1, this.height, this.width); // (height, new width)
    const columns = shrink(rows, this.height, height, width, width, 1); // (new width, new height)
    const values = new Float32Array(width * height);
    for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) values[y * width + x] = columns[x * height + y];
    return new Plane(width, height, values);
  }

  // The largest values within a square around each position.
  dilate(reach) {
    const { width, height, values } = this;
    const rows = new Float32Array(values.length), result = new Float32Array(values.length);
    for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) {
      for (let i = Math.max(0, x - reach); i <= Math.min(width - 1, x + reach); ++i) {
        rows[y * width + x] = Math.max(rows[y * width + x], values[y * width + i]);
      }
    }
    for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) {
      for (let i = Math.max(0, y - reach); i <= Math.min(height - 1, y + reach); ++i) {
        result[y * width + x] = Math.max(result[y * width + x], rows[i * width + x]);
      }
    }
    return new Plane(width, height, result);
  }

  // The mean of the square of `2 reach + 1` around each position, by sums of all values above and to the left.
  blur(reach) {
    const { width, height, values } = this;
    const sums = new Float64Array((width + 1) * (height + 1));
    for (let y = 0; y < height; ++y) for (let x = 0, row = 0; x < width; ++x) {
      row += values[y * width + x];
      sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
    }
    const result = new Plane(width, height);
    for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) {
      const [top, bottom] = [Math.max(0, y - reach), Math.min(height, y + reach + 1)];
      const [left, right] = [Math.max(0, x - reach), Math.min(width, x + reach + 1)];
      const at = (row, column) => sums[row * (width + 1) + column];
      const sum = at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left);
      result.values[y * width + x] = sum / ((bottom - top) * (right - left));
    }
    return result;
  }
}

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

// The largest value of all but `part` of the values.
function findQuantile(values, part) {
  const counts = new Uint32Array(256);
  for (const value of values) ++counts[Math.max(0, Math.min(255, Math.round(value)))];
  let rest = part * values.length, level = 255;
  for (; level > 0 && rest >= counts[level]; --level) rest -= counts[level];
  return level;
}

// How strong the ink is at each position, 0 to 255: how much it differs from the mean around it. Ink is what differs
// more, in one direction or the other: dark on light paper, or light on dark.
function findInk(grey) {
  const around = grey.blur(Math.round(Math.max(grey.width, grey.height) / 4));
  const [dark, light] = [1, -1].map((sign) => {
    const plane = new Plane(grey.width, grey.height);
    for (let i = 0; i < plane.values.length; ++i) {
      plane.values[i] = Math.max(0, sign * (around.values[i] - grey.values[i]));
    }
    return plane;
  });
  return findQuantile(dark.values, 0.002) >= findQuantile(light.values, 0.002) ? dark : light;
}

// Connected areas of at least `threshold`: boxes with the positions that belong to them.
function findAreas(ink, threshold) {
  const { width, height, values } = ink;
  const seen = new Uint8Array(values.length);
  const areas = [];
  for (let start = 0; start < values.length; ++start) {
    if (seen[start] || values[start] < threshold) continue;
    const area = { left: width, top: height, right: 0, bottom: 0, positions: [start] };
    seen[start] = 1;
    for (let i = 0; i < area.positions.length; ++i) {
      const x = area.positions[i] % width, y = (area.positions[i] - x) / width;
      Object.assign(area, {
        left: Math.min(area.left, x), right: Math.max(area.right, x + 1),
        top: Math.min(area.top, y), bottom: Math.max(area.bottom, y + 1),
      });
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); ++v) {
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); ++u) {
          const next = v * width + u;
          if (!seen[next] && values[next] >= threshold) {
            seen[next] = 1;
            area.positions.push(next);
          }
        }
      }
    }
    areas.push(area);
  }
  return areas;
}

function joinAreas(a, b) {
  return {
    left: Math.min(a.left, b.left), right: Math.max(a.right, b.right),
    top: Math.min(a.top, b.top), bottom: Math.max(a.bottom, b.bottom), positions: a.positions.concat(b.positions),
  };
}

// Find the digits of one number in a picture, from left to right: the largest area of ink and those beside it of about
// its height. This is where a network that finds digits would come in: it returns such areas too.
function findDigits(ink) {
  const threshold = Math.max(24, 0.45 * findQuantile(ink.values, 0.002));
  const { width, height } = ink;
  const touchesEdge = (area) => area.left === 0 || area.top === 0 || area.right === width || area.bottom === height;
  const areas = findAreas(ink, threshold).filter((area) => area.positions.length >= 12);
  const tall = (area) => area.bottom - area.top;
  let candidates = areas.filter((area) => tall(area) >= 0.03 * height && area.right - area.left < 2 * tall(area));
  // What the picture's edge cuts is rarely a digit, unless the picture was cut to the digits.
  if (!candidates.every(touchesEdge)) candidates = candidates.filter((area) => !touchesEdge(area));
  if (!candidates.length) return [];
  const first = candidates.reduce((a, b) => (b.positions.length > a.positions.length ? b : a));
  const isBeside = (area) => {
    const overlap = Math.min(area.bottom, first.bottom) - Math.max(area.top, first.top);
    return tall(area) >= 0.5 * tall(first) && tall(area) <= 2 * tall(first) && overlap >= 0.5 * Math.min(tall(area), tall(first));
  };
  let line = candidates.filter(isBeside).sort((a, b) => a.left - b.left);
  // What is far from the first one belongs to another number.
  const reach = 2 * tall(first);
  let from = line.indexOf(first), to = from;
  while (from > 0 && line[from].left - line[from - 1].right <= reach) --from;
  while (to + 1 < line.length && line[to + 1].left - line[to].right <= reach) ++to;
  line = line.slice(from, to + 1);
  // A stroke that was set apart, such as the bar of a 5, lies above or below its digit.
  for (const area of areas) {
    if (line.includes(area)) continue;
    const owner = line.findIndex((digit) => {
      const overlap = Math.min(area.right, digit.right) - Math.max(area.left, digit.left);
      const distance = Math.max(area.top - digit.bottom, digit.top - area.bottom);
      return overlap >= 0.5 * (area.right - area.left) && distance <= 0.15 * tall(digit) && tall(area) <= tall(digit);
    });
    if (owner >= 0) line[owner] = joinAreas(line[owner], area);
  }
  return line;
}

// Cut a digit out as MNIST's makers did: fitted into 20x20 pixels, in 28x28 with its centre of mass in the middle
// (LeCun, Cortes, Burges, "The MNIST database"). The result is uint8 (28, 28), 255 the ink.
function normalize(ink, area) {
  const border = 2; // an edge is blurred beyond the area
  const width = area.right - area.left + 2 * border, height = area.bottom - area.top + 2 * border;
  const mask = new Plane(width, height);
  for (const position of area.positions) {
    const x = position % ink.width, y = (position - x) / ink.width;
    mask.values[(y - area.top + border) * width + x - area.left + border] = 1;
  }
  const own = mask.dilate(border);
  let cut = new Plane(width, height);
  for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) {
    const u = x + area.left - border, v = y + area.top - border;
    if (u >= 0 && v >= 0 && u < ink.width && v < ink.height && own.values[y * width + x]) {
      cut.values[y * width + x] = ink.values[v * ink.width + u];
    }
  }
  // MNIST's strokes are about a tenth of a digit's longer side; thinner ones are thickened. A stroke of thickness t and
  // length l has the area t l and the outline 2 (t + l).
  const side = Math.max(width, height) - 2 * border;
  let outline = 0;
  for (let y = 1; y + 1 < height; ++y) for (let x = 1; x + 1 < width; ++x) {
    const at = y * width + x;
    const neighbours = mask.values[at - 1] + mask.values[at + 1] + mask.values[at - width] + mask.values[at + width];
    if (mask.values[at] && neighbours < 4) ++outline;
  }
  const thickness = (2 * area.positions.length) / Math.max(outline, 1);
  const missing = Math.round((0.085 * side - thickness) / 2);
  if (missing > 0) cut = cut.dilate(missing);
  // Weak ink is paper, and the strongest becomes 255.
  const peak = findQuantile(cut.values, 0.05) || 1, low = 0.15 * peak;
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) {
    const at = y * width + x;
    cut.values[at] = Math.max(0, Math.min(255, ((cut.values[at] - low) * 255) / (peak - low)));
    if (cut.values[at]) [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x + 1), Math.max(bottom, y + 1)];
  }
  const image = new Uint8Array(28 * 28);
  if (right <= left) return image;
  const box = new Plane(right - left, bottom - top);
  for (let y = top; y < bottom; ++y) for (let x = left; x < right; ++x) box.values[(y - top) * box.width + x - left] = cut.values[y * width + x];
  const scale = 20 / Math.max(box.width, box.height);
  const small = box.resize(Math.max(1, Math.round(box.width * scale)), Math.max(1, Math.round(box.height * scale)));
  let mass = 0, across = 0, down = 0, highest = 0;
  for (let y = 0; y < small.height; ++y) for (let x = 0; x < small.width; ++x) {
    const value = small.values[y * small.width + x];
    mass += value;
    across += value * x;
    down += value * y;
    highest = Math.max(highest, value);
  }
  const place = (centre, length) => Math.min(Math.max(Math.round(13.5 - centre), 0), 28 - length);
  const x0 = place(across / mass, small.width), y0 = place(down / mass, small.height);
  for (let y = 0; y < small.height; ++y) for (let x = 0; x < small.width; ++x) {
    image[(y0 + y) * 28 + x0 + x] = Math.round((small.values[y * small.width + x] * 255) / highest);
  }
  return image;
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

// The pad: what is drawn is read as the pen moves.
function startPad(network) {
  const pad = $("pad"), pen = pad.getContext("2d", { willReadFrequently: true });
  const showBars = makeBars($("bars"), 10, false);
  let last = null;

  function clear() {
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, pad.width, pad.height);
    Object.assign(pen, { strokeStyle: "#fff", lineWidth: 22, lineCap: "round", lineJoin: "round" });
    $("digit").textContent = "–";
    drawGrey($("seen"), new Uint8Array(784), 28, 28);
    showBars(null);
  }

  function read() {
    const ink = readGrey(pad);
    const areas = findAreas(ink, 64);
    if (!areas.length) return;
    const image = normalize(ink, areas.reduce(joinAreas));
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

// Read the number on a picture, and show its digits with the most probable class of each.
function readNumber(network, picture, width, height) {
  const canvas = $("picture");
  drawPicture(canvas, picture, width, height, 800);
  const ink = findInk(readGrey(canvas));
  const brush = canvas.getContext("2d");
  Object.assign(brush, { strokeStyle: "#0b8a4b", lineWidth: Math.max(2, canvas.width / 300) });
  let text = "";
  $("crops").replaceChildren();
  for (const area of findDigits(ink)) {
    const image = normalize(ink, area);
    const probabilities = network.classify(image);
    const best = Math.max(...probabilities), digit = probabilities.indexOf(best);
    text += digit;
    const crop = createElement("canvas");
    drawGrey(crop, image, 28, 28);
    $("crops").append(createElement("figure", {}, crop, `${digit}: ${formatPercent(best)}`));
    brush.strokeRect(area.left - 2, area.top - 2, area.right - area.left + 4, area.bottom - area.top + 4);
  }
  canvas.hidden = false;
  $("number").textContent = text || "no number";
}

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

// Pictures that are chosen, dropped or pasted, and those of the camera; `read` takes a picture, its width and height.
function startPictures(read) {
  const drop = $("drop");
  let stream = null;

  async function open(files) {
    if (!files[0]) return;
    stopCamera();
    const picture = await createImageBitmap(files[0]).catch(() => null);
    showTrouble(picture ? "" : `${files[0].name}: is not a picture that this browser can read`);
    if (picture) read(picture, picture.width, picture.height);
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
      read(video, video.videoWidth, video.videoHeight);
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
  const { module, golden } = JSON.parse($("data").textContent);
  const bytes = decodeBase64(module);
  const networks = await openNetworks(bytes);
  const [network] = networks; // the fastest
  const { input_shape: shape, output_shape: maps, input_scale: scale, model } = network.contract;
  const isPicture = shape.length === 3 && scale === undefined && [1, 3].includes(shape[0]);
  $("about").textContent = `An int8 network, ${model}, for inputs of ${shape.join("x")}: ${bytes.length.toLocaleString("en")} ` +
    "bytes of WebAssembly, and everything else, are in this file. It needs no server and no connection.";
  if (isPicture && shape.join() === "1,28,28" && !maps && network.output.length === 10) {
    startPad(network);
    startPictures((...picture) => readNumber(network, ...picture));
    $("limits").textContent = "It reads one number, the largest, of separate digits on an even ground. It has no sense of " +
      "what is not a digit, and does not read several numbers, digits that touch, signs or decimal points: " +
      "the demo of edge-mnist has more.";
  } else if (isPicture) {
    $("pictures-title").textContent = "Give it a picture";
    $("classes").hidden = Boolean(maps);
    const showClasses = maps ? null : makeBars($("classes"), Math.min(5, network.output.length), true);
    startPictures((...picture) => readPicture(network, showClasses, ...picture));
    $("limits").textContent = "The middle of the picture is resized to the input of the network.";
  }
  await prove(networks, golden);
  document.body.dataset.ready = "true";
}

start().catch((error) => showTrouble(`The page cannot run here: ${error.message}`));
