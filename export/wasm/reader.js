"use strict";

// Reads the numbers in a picture with two networks, as edge_mnist/demo/reading does; docs/browser.md says what it leaves
// out. Nothing here touches the page. A box is { left, top, right, bottom }, in pixels.

// Round as Python and OpenCV do: a half goes to the even neighbour.
function roundEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const toByte = (value) => clamp(roundEven(value), 0, 255);
const sum = (values) => values.reduce((a, b) => a + b, 0);
const range = (count) => Array.from({ length: count }, (_, index) => index);
const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};

// The probabilities of classes with these logits.
function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - largest));
  const total = sum(powers);
  return powers.map((power) => power / total);
}

// A picture of one value a pixel, row by row: grey or ink, mostly 0 to 255.
class Plane {
  constructor(width, height, values = new Float32Array(width * height)) {
    Object.assign(this, { width, height, values });
  }

  // The value at a position; beyond the edge, that at the edge.
  at(x, y) {
    return this.values[clamp(y, 0, this.height - 1) * this.width + clamp(x, 0, this.width - 1)];
  }

  map(change) {
    return new Plane(this.width, this.height, this.values.map(change));
  }

  // A part of it; beyond its edges, they are repeated.
  cut(left, top, width, height) {
    const result = new Plane(width, height);
    for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) result.values[y * width + x] = this.at(left + x, top + y);
    return result;
  }

  // Resize to another size. `weigh` gives for a position of one direction the positions that it is made of and their
  // weights: it takes the position, and how many pixels become how many.
  resize(width, height, weigh) {
    const along = (from, length, to, stride, lines, step) => {
      const result = new Float32Array(lines * to);
      for (let i = 0; i < to; ++i) for (const [at, weight] of weigh(i, length, to)) {
        const place = clamp(at, 0, length - 1) * stride;
        for (let line = 0; line < lines; ++line) result[line * to + i] += weight * from[line * step + place];
      }
      return result;
    };
    const rows = along(this.values, this.width, width, 1, this.height, this.width); // (height, new width)
    const columns = along(rows, this.height, height, width, width, 1); // (new width, new height)
    const values = new Float32Array(width * height);
    for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) values[y * width + x] = columns[x * height + y];
    return new Plane(width, height, values);
  }

  // What `choose`, Math.max or Math.min, chooses in a neighbourhood: of each of its rows, from -reach to reach, the
  // half of its width. What lies beyond the edges is left out.
  choose(choose, halves) {
    const { width, height, values } = this;
    const result = new Plane(width, height);
    const reach = (halves.length - 1) / 2;
    for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) {
      let best = values[y * width + x];
      for (let v = Math.max(0, y - reach); v <= Math.min(height - 1, y + reach); ++v) {
        const half = halves[v - y + reach];
        for (let u = Math.max(0, x - half); u <= Math.min(width - 1, x + half); ++u) best = choose(best, values[v * width + u]);
      }
      result.values[y * width + x] = best;
    }
    return result;
  }

  // The same in a square, in two steps: along the rows, then along the columns.
  chooseSquare(choose, reach) {
    return this.choose(choose, [reach]).choose(choose, Array(2 * reach + 1).fill(0));
  }

  // The box of the values above 0; null if there are none.
  findBox() {
    const box = { left: this.width, top: this.height, right: 0, bottom: 0 };
    this.values.forEach((value, index) => {
      if (value <= 0) return;
      const x = index % this.width, y = (index - x) / this.width;
      box.left = Math.min(box.left, x);
      box.top = Math.min(box.top, y);
      box.right = Math.max(box.right, x + 1);
      box.bottom = Math.max(box.bottom, y + 1);
    });
    return box.right ? box : null;
  }
}

// Weights for `Plane.resize`: the mean of the area that a pixel covers, and straight lines between pixels.
function weighArea(i, length, to) {
  const start = (i * length) / to, end = ((i + 1) * length) / to, weights = [];
  for (let at = Math.floor(start); at < Math.min(Math.ceil(end), length); ++at) {
    weights.push([at, (Math.min(at + 1, end) - Math.max(at, start)) / (end - start)]);
  }
  return weights;
}

function weighLinear(i, length, to) {
  const place = ((i + 0.5) * length) / to - 0.5, at = Math.floor(place);
  return [[at, 1 - place + at], [at + 1, place - at]];
}

// The functions of a reader; `settings` are the constants of edge_mnist/demo/reading and of edge_mnist/data/finder_map.
function makeReader(settings) {
  const { CANVAS_WIDTH, CANVAS_HEIGHT, BORDER, BEYOND, FOUND, SMALLEST } = settings.finder_map;
  const { PLACE, VALUES, SIZE, BOX_GAIN, SIZE_GAIN } = settings.finder_map;
  const { SMALL, SHARED, BETWEEN } = settings.canvases, { OVERLAP, INSIDE } = settings.finder;
  const crops = settings.digit_images, layout = settings.layout;
  const { ALONE, WEIGHTS, _LEAST_CHANCE: LEAST_CHANCE, _MOST_ODDS: MOST_ODDS } = settings.confidence;
  const { THRESHOLD, UNSURE, DOUBTFUL } = settings.reader;
  const CROSS = [0, 1, 0]; // for `Plane.choose`
  const TILE_WIDTH = CANVAS_WIDTH - 2 * BORDER, TILE_HEIGHT = CANVAS_HEIGHT - 2 * BORDER;
  const COLUMNS = CANVAS_WIDTH / PLACE, ROWS = CANVAS_HEIGHT / PLACE, DIGITS = VALUES - 5;

  // --- Find digits (finder.py, edge_mnist/data/canvases.py) ---

  // A scale, { pixels, scale }, of another size: the mean of whole numbers of pixels, then straight lines between those to
  // twice the size, and the mean again. Where the sides are no multiples of that number, the last pixels are repeated.
  function resize({ pixels: plane, scale }, width, height) {
    let { width: columns, height: rows } = plane;
    const step = Math.max(1, Math.min(Math.floor((plane.height + 1) / height), Math.floor((plane.width + 1) / width)));
    if (step > 1) {
      [columns, rows] = [columns, rows].map((side) => Math.ceil(side / step) * step);
      const padded = plane.cut(0, 0, columns, rows);
      plane = step === 2 ? halve(padded) : padded.resize(columns / step, rows / step, weighArea).map(toByte);
    }
    let pixels = plane;
    if (plane.width > width || plane.height > height) pixels = halve(plane.resize(2 * width, 2 * height, weighLinear).map(toByte));
    else if (plane.width < width || plane.height < height) pixels = plane.resize(width, height, weighLinear).map(toByte);
    return { pixels, scale: [(scale[0] * width) / columns, (scale[1] * height) / rows] };
  }

  // A picture at the scales that share a canvas, and at the finer ones: { pixels, scale }.
  function makeScales(grey, finest, step) {
    const { width, height } = grey, longest = Math.max(width, height);
    const at = (longer, finer) => {
      const ratio = longer / longest;
      const size = [width, height].map((side) => Math.max(1, roundEven(side * ratio)));
      if (size[0] === width && size[1] === height) return { pixels: grey, scale: [1, 1] };
      const isHalf = finer && [finer.pixels.width - 2 * size[0], finer.pixels.height - 2 * size[1]].every((rest) => Math.abs(rest) <= 1);
      return resize(isHalf ? finer : { pixels: grey, scale: [1, 1] }, ...size);
    };
    const coarse = [], fine = [];
    const below = Math.min(CANVAS_WIDTH / width, (CANVAS_HEIGHT - 4 * BORDER) / 1.5 / height);
    const beside = Math.min(CANVAS_HEIGHT / height, (CANVAS_WIDTH - 4 * BORDER) / 1.5 / width);
    let longer = longest * Math.min(1, Math.max(below, beside));
    for (; !coarse.length || longer >= SMALLEST; longer /= 2) coarse.push(at(longer, coarse.at(-1)));
    const first = Math.max(coarse[0].pixels.width, coarse[0].pixels.height), isSmall = longest <= SMALL;
    const most = isSmall ? 2 * first : Math.min(finest, longest * 2 ** (step / 2));
    for (let octaves = step; first * 2 ** octaves <= most; octaves += step) {
      fine.push(at(isSmall ? first * 2 ** octaves : Math.min(first * 2 ** octaves, longest)));
    }
    return { coarse, fine };
  }

  // Where tiles along a side begin and end.
  function makeSpans(side, tile) {
    if (side <= tile) return [[0, side]];
    const count = Math.ceil((side - SHARED) / (tile - SHARED));
    return range(count).map((number) => roundEven((number * (side - tile)) / (count - 1))).map((start) => [start, start + tile]);
  }

  // A scale, cut into tiles that a canvas holds. `edges` are how far from its left, top, right and bottom edge the
  // middle of a digit must lie: what lies nearer is found on the neighbouring tile.
  function makeTiles({ pixels, scale }) {
    const half = SHARED >> 1, { width, height } = pixels;
    const across = makeSpans(width, TILE_WIDTH);
    return makeSpans(height, TILE_HEIGHT).flatMap(([top, bottom]) => across.map(([left, right]) => ({
      pixels: pixels.cut(left, top, right - left, bottom - top), scale, corner: [left, top],
      edges: [half * (left > 0), half * (top > 0), half * (right < width), half * (bottom < height)],
    })));
  }

  // Canvases on which pictures are placed, each with its border in the smallest free part that holds it; what it leaves of
  // that part is cut in two.
  class Packing {
    placed = [];
    free = [];
    count = 0;

    addBorder({ width, height }) {
      return [Math.min(width + 2 * BORDER, CANVAS_WIDTH), Math.min(height + 2 * BORDER, CANVAS_HEIGHT)];
    }

    findPart(size) {
      const [wide, high] = this.addBorder(size);
      return this.free.filter(({ width, height }) => width >= wide && height >= high)
        .reduce((best, part) => (best && best.width * best.height <= part.width * part.height ? best : part), null);
    }

    add(picture) {
      const { pixels } = picture, [wide, high] = this.addBorder(pixels);
      let part = this.findPart(pixels);
      if (part) this.free.splice(this.free.indexOf(part), 1);
      else part = { canvas: this.count++, left: 0, top: 0, width: CANVAS_WIDTH, height: CANVAS_HEIGHT };
      const { canvas, left, top, width, height } = part;
      this.placed.push({ picture, canvas, left: left + ((wide - pixels.width) >> 1), top: top + ((high - pixels.height) >> 1) });
      const isWider = width - wide > height - high; // what is left to the right is then as high as the part
      this.free.push({ canvas, left: left + wide, top, width: width - wide, height: isWider ? height : high });
      this.free.push({ canvas, left, top: top + high, width: isWider ? wide : width, height: height - high });
    }
  }

  function placePictures(pictures) {
    const packing = new Packing();
    for (const picture of pictures) packing.add(picture);
    return packing.placed;
  }

  // Place the coarse scales on a canvas, and scales between them where there is room.
  function placeCoarse(coarse) {
    const packing = new Packing();
    for (const picture of coarse) packing.add(picture);
    for (const octaves of BETWEEN) for (const picture of coarse) {
      const [width, height] = [picture.pixels.width, picture.pixels.height].map((side) => Math.max(1, roundEven(side * 2 ** -octaves)));
      if (Math.max(width, height) < 2 * SMALLEST || !packing.findPart({ width, height })) continue;
      packing.add(resize(picture, width, height));
    }
    return packing.placed;
  }

  // The pixels of a canvas with the pictures placed on it: uint8 (CANVAS_HEIGHT, CANVAS_WIDTH).
  function drawCanvas(placed) {
    const canvas = new Uint8Array(CANVAS_WIDTH * CANVAS_HEIGHT).fill(BEYOND);
    for (const { picture: { pixels }, left, top } of placed) {
      for (let y = Math.max(top - BORDER, 0); y < Math.min(top + pixels.height + BORDER, CANVAS_HEIGHT); ++y) {
        for (let x = Math.max(left - BORDER, 0); x < Math.min(left + pixels.width + BORDER, CANVAS_WIDTH); ++x) {
          canvas[y * CANVAS_WIDTH + x] = pixels.at(x - left, y - top);
        }
      }
    }
    return canvas;
  }

  // A canvas as the module takes it: the pixels of each place as channels, which vary fastest.
  function splitPlaces(canvas) {
    const places = new Uint8Array(CANVAS_WIDTH * CANVAS_HEIGHT);
    for (let y = 0; y < CANVAS_HEIGHT; ++y) for (let x = 0; x < CANVAS_WIDTH; ++x) {
      const place = Math.floor(y / PLACE) * COLUMNS + Math.floor(x / PLACE);
      places[(place * PLACE + (y % PLACE)) * PLACE + (x % PLACE)] = canvas[y * CANVAS_WIDTH + x];
    }
    return places;
  }

  // The peaks of a map, (VALUES, ROWS, COLUMNS): what is found on its canvas, with confidence, logits and the box there.
  function findPeaks(values, least) {
    const lowest = Math.log(least / (1 - least)), size = ROWS * COLUMNS, found = [];
    for (let y = 0; y < ROWS; ++y) for (let x = 0; x < COLUMNS; ++x) {
      const place = y * COLUMNS + x, heat = values[place];
      if (!(heat >= lowest)) continue;
      let isPeak = true;
      for (let v = Math.max(0, y - 1); v <= Math.min(ROWS - 1, y + 1); ++v) {
        for (let u = Math.max(0, x - 1); u <= Math.min(COLUMNS - 1, x + 1); ++u) isPeak &&= values[v * COLUMNS + u] <= heat;
      }
      if (!isPeak) continue;
      const value = (number) => values[number * size + place];
      const [across, down] = [x, y].map((at, axis) => (at + 0.5 + value(1 + axis) / BOX_GAIN) * PLACE);
      const [wide, high] = [3, 4].map((number) => Math.exp(clamp(value(number) / SIZE_GAIN, -4, 4)) * (SIZE / 2));
      const box = { left: across - wide, top: down - high, right: across + wide, bottom: down + high };
      found.push({ box, confidence: 1 / (1 + Math.exp(-heat)), logits: range(DIGITS).map((digit) => value(5 + digit)) });
    }
    return found;
  }

  // Of what was found on a canvas, what lies on one of its pictures, with its box in pixels of the whole picture.
  function takeInside({ picture, left, top }, found) {
    const { pixels, scale, corner: [x, y] = [0, 0], edges = [0, 0, 0, 0] } = picture;
    return found.filter(({ box }) => {
      const across = (box.left + box.right) / 2 - left, down = (box.top + box.bottom) / 2 - top;
      return across >= edges[0] && across < pixels.width - edges[2] && down >= edges[1] && down < pixels.height - edges[3];
    }).map((one) => ({ ...one, box: {
      left: (one.box.left + x - left) / scale[0], top: (one.box.top + y - top) / scale[1],
      right: (one.box.right + x - left) / scale[0], bottom: (one.box.bottom + y - top) / scale[1],
    } }));
  }

  // The tiles, `most` of them, on which the coarse scales show the most that would have a good size there.
  function chooseTiles(tiles, found, most) {
    const sizes = found.map(({ box }) => Math.max(box.right - box.left, box.bottom - box.top));
    const promises = tiles.map(({ pixels, scale, corner }) => sum(found.map(({ box, confidence }, index) => {
      const across = ((box.left + box.right) / 2) * scale[0] - corner[0], down = ((box.top + box.bottom) / 2) * scale[1] - corner[1];
      const isThere = across >= 0 && across < pixels.width && down >= 0 && down < pixels.height;
      return isThere && sizes[index] * scale[0] < FOUND[1] ? confidence : 0;
    })));
    const order = range(tiles.length).sort((a, b) => promises[b] - promises[a]).slice(0, most);
    return order.sort((a, b) => a - b).filter((index) => promises[index] > 0).map((index) => tiles[index]);
  }

  const measureArea = ({ left, top, right, bottom }) => (right - left) * (bottom - top);

  function measureShared(box, other) {
    const wide = Math.min(box.right, other.right) - Math.max(box.left, other.left);
    const high = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
    return Math.max(wide, 0) * Math.max(high, 0);
  }

  // What stays where several boxes show one digit, the most confident first.
  function suppress(found) {
    const kept = [];
    for (const one of [...found].sort((a, b) => b.confidence - a.confidence)) {
      const isNew = kept.every(({ box }) => {
        const shared = measureShared(box, one.box), [a, b] = [box, one.box].map(measureArea);
        return shared <= OVERLAP * (a + b - shared) && shared <= INSIDE * Math.min(a, b);
      });
      if (isNew) kept.push(one);
    }
    return kept;
  }

  // Less confidence in a box of which more confident ones share a part, by the part of their union that they share.
  function doubtOverlapping(found) {
    const doubted = found.map((one, index) => {
      const parts = found.slice(0, index).map(({ box }) => {
        const shared = measureShared(box, one.box);
        return 1 - shared / (measureArea(box) + measureArea(one.box) - shared);
      });
      return { ...one, confidence: one.confidence * parts.reduce((a, b) => a * b, 1) };
    });
    return doubted.sort((a, b) => b.confidence - a.confidence);
  }

  // Whether each is but a part of a digit: the middle of its ink lies in the box of a more confident one.
  function findParts(found, inks) {
    return inks.map((ink, index) => {
      const x = (ink.left + ink.right) / 2, y = (ink.top + ink.bottom) / 2;
      return found.slice(0, index).some(({ box }) => x > box.left && x < box.right && y > box.top && y < box.bottom);
    });
  }

  // Find the digits in a picture; `look` gives the map of a canvas, and is awaited. At most `looks` canvases more than
  // that of the coarse scales are looked at.
  async function findDigits(grey, look, looks = settings.reader.looks) {
    const { least, finest, step } = settings.reader;
    async function lookAt(placed) {
      const found = [];
      for (let number = 0; number <= Math.max(...placed.map(({ canvas }) => canvas)); ++number) {
        const there = placed.filter(({ canvas }) => canvas === number);
        const peaks = findPeaks(await look(splitPlaces(drawCanvas(there))), least);
        found.push(...there.flatMap((one) => takeInside(one, peaks)));
      }
      return found;
    }
    const { coarse, fine } = makeScales(grey, finest, looks < settings.reader.looks ? 1 : step);
    const found = await lookAt(placeCoarse(coarse));
    let tiles = fine.flatMap(makeTiles);
    if (tiles.length > looks) tiles = chooseTiles(tiles, found, looks);
    return doubtOverlapping(suppress(tiles.length ? found.concat(await lookAt(placePictures(tiles))) : found));
  }

  // --- Cut digits out (digit_images.py) ---

  // The square window of a box: its pixels, the same at half the resolution, between which rows and columns the picture
  // lies, and its place.
  function makeWindow(grey, box) {
    const longer = Math.max(box.right - box.left, box.bottom - box.top, 1);
    const half = roundEven((0.5 + crops.reach) * crops.resolution), size = 2 * half;
    let span = Math.max(2, roundEven((1 + 2 * crops.reach) * longer));
    const step = Math.max(1, Math.floor(span / (2 * size)));
    span = Math.ceil(span / step) * step;
    const x = roundEven((box.left + box.right - span) / 2), y = roundEven((box.top + box.bottom - span) / 2);
    let pixels = grey.cut(x, y, span, span);
    if (step > 1) pixels = pixels.resize(span / step, span / step, weighArea).map(toByte);
    pixels = pixels.resize(size, size, weighLinear).map(toByte);
    const scale = size / span, lost = (pixelsBeyond) => Math.ceil(Math.max(pixelsBeyond, 0) * scale);
    const inside = {
      left: lost(-x), top: lost(-y), right: size - lost(x + span - grey.width), bottom: size - lost(y + span - grey.height),
    };
    return { pixels, halves: halve(pixels), inside, x, y, scale };
  }

  // A plane of half the size; OpenCV rounds a half up here.
  const halve = (plane) => plane.resize(plane.width / 2, plane.height / 2, weighArea).map((value) => Math.floor(value + 0.5));

  // A box in pixels of a window.
  function scaleBox({ x, y, scale }, { left, top, right, bottom }) {
    return { left: (left - x) * scale, top: (top - y) * scale, right: (right - x) * scale, bottom: (bottom - y) * scale };
  }

  // The same in whole pixels of the window, never empty.
  function roundBox(window, box) {
    const size = window.pixels.width, scaled = scaleBox(window, box);
    const left = clamp(Math.floor(scaled.left), 0, size - 1), top = clamp(Math.floor(scaled.top), 0, size - 1);
    return { left, top, right: clamp(Math.ceil(scaled.right), left + 1, size), bottom: clamp(Math.ceil(scaled.bottom), top + 1, size) };
  }

  // The position where a running total first reaches a number.
  function findFirst(totals, number) {
    const found = totals.findIndex((total) => total >= number);
    return found < 0 ? totals.length : found;
  }

  function addUp(values) {
    let total = 0;
    return values.map((value) => (total += value));
  }

  // Whether the ink of each window is lighter than its paper: what a digit shows by itself counts as much as all do.
  function judgeLight(windows, boxes) {
    const evidence = windows.map((window, index) => {
      const { halves } = window, few = Math.ceil(halves.width / 2), side = roundEven(crops._PART * few);
      const starts = range(crops._PARTS).map((part) => Math.floor((part * (few - side)) / (crops._PARTS - 1)));
      const medians = starts.map((top) => starts.map((left) => { // of small parts that overlap
        const values = range(side * side).map((at) => halves.at(2 * (left + (at % side)), 2 * (top + Math.floor(at / side))));
        return values.sort((a, b) => a - b)[(side * side) >> 1];
      }));
      const distance = (part, place) => Math.abs(place + 0.5 - (2 * starts[part] + side));
      const nearest = range(halves.width).map((place) => range(crops._PARTS).reduce((a, b) => (distance(b, place) < distance(a, place) ? b : a)));
      const box = roundBox(window, boxes[index]), last = halves.width - 1;
      let total = 0, magnitude = 0;
      for (let y = box.top >> 1; y <= Math.min(box.bottom >> 1, last); ++y) {
        for (let x = box.left >> 1; x <= Math.min(box.right >> 1, last); ++x) {
          const relief = halves.at(x, y) - medians[nearest[y]][nearest[x]];
          total += relief ** 3;
          magnitude += Math.abs(relief) ** 3 + 8 ** 3;
        }
      }
      return total / magnitude;
    });
    const page = sum(evidence) / Math.max(evidence.length, 1);
    return evidence.map((own) => own + page > 0);
  }

  // How much darker each pixel is than the paper around it: 255 * (1 - pixel / paper). The paper is what a grey closing
  // of the window, at half the resolution, leaves.
  function measureInk(pixels, halves) {
    const reach = (roundEven((crops.stroke * crops.resolution) / 2) | 1) >> 1;
    const closed = halves.chooseSquare(Math.max, reach).chooseSquare(Math.min, reach);
    const paper = closed.resize(pixels.width, pixels.height, weighLinear).map(toByte).values;
    return pixels.map((pixel, at) => Math.max(roundEven(Math.fround(((paper[at] - pixel) * 255) / Math.max(paper[at], 1))), 0));
  }

  // The mean strength of paper and of ink, divided by Otsu's method, and what the strongest tenth of the ink reaches.
  function findLevels(strength, box) {
    const counts = Array(256).fill(0);
    for (let y = box.top; y < box.bottom; ++y) for (let x = box.left; x < box.right; ++x) ++counts[strength.at(x, y)];
    const number = addUp(counts), total = addUp(counts.map((count, level) => count * level));
    const [count, weight] = [number.at(-1), total.at(-1)];
    const between = number.map((below, level) => (total[level] * count - weight * below) ** 2 / Math.max(below * (count - below), 1));
    const level = between.indexOf(Math.max(...between)), rest = count - number[level];
    const paper = total[level] / Math.max(number[level], 1), ink = (weight - total[level]) / Math.max(rest, 1);
    return { paper, ink, peak: Math.max(findFirst(number, count - 0.1 * rest), ink) };
  }

  // The connected components of a mask, of 8 neighbours: lists of positions.
  function findComponents(mask) {
    const { width, height, values } = mask, seen = new Uint8Array(values.length), components = [];
    for (let start = 0; start < values.length; ++start) {
      if (seen[start] || !values[start]) continue;
      const positions = [start];
      seen[start] = 1;
      for (const position of positions) { // grows on the way
        const x = position % width, y = (position - x) / width;
        for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); ++v) {
          for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); ++u) {
            const next = v * width + u;
            if (seen[next] || !values[next]) continue;
            seen[next] = 1;
            positions.push(next);
          }
        }
      }
      components.push(positions);
    }
    return components;
  }

  // The part of a window's ink, 255 or 0, that belongs to a digit: whole components, components that are divided between
  // digits, or what lies in its box of one that is much larger.
  function takeOwn(mask, window, index, boxes) {
    const size = mask.width, scaled = boxes.map((box) => scaleBox(window, box));
    const near = scaled.filter((box, other) => other !== index && box.left < size && box.top < size && box.right > 0 && box.bottom > 0);
    const measure = (box, position) => {
      const x = (position % size) + 0.5, y = Math.floor(position / size) + 0.5;
      return Math.max(box.left - x, x - box.right, box.top - y, y - box.bottom);
    };
    const isNearest = (position) => near.every((box) => measure(scaled[index], position) <= measure(box, position));
    const isInZone = (position) => measure(scaled[index], position) <= crops.error * crops.resolution && isNearest(position);
    const components = findComponents(mask).map((positions) => {
      const inside = positions.filter(isInZone), mine = positions.filter(isNearest);
      const isMostly = 2 * inside.length >= positions.length;
      return { positions, inside, mine, isMostly };
    });
    const most = Math.max(0, ...components.filter(({ isMostly }) => isMostly).map(({ inside }) => inside.length));
    const largest = components.reduce((a, b) => (b.inside.length > a.inside.length ? b : a), { inside: [] });
    const total = sum(components.map(({ inside }) => inside.length)), own = new Plane(size, size);
    for (const one of components) {
      if (one.inside.length < crops.speck * total) continue;
      let taken = [];
      if (one.isMostly) {
        const foreign = one.positions.length - one.mine.length;
        taken = foreign < crops.shared * one.positions.length ? one.positions : one.mine;
      } else if (one === largest && one.inside.length > most) taken = one.inside;
      for (const position of taken) own.values[position] = 255;
    }
    return own;
  }

  // The thickness of the strokes of a mask: twice the area, over the number of the pixels at the edge.
  function measureThickness(mask) {
    let area = 0, outline = 0;
    const { width, height, values } = mask;
    for (let y = 0; y < height; ++y) for (let x = 0; x < width; ++x) {
      if (!values[y * width + x]) continue;
      ++area;
      const isInside = x > 0 && y > 0 && x + 1 < width && y + 1 < height && values[y * width + x - 1] && values[y * width + x + 1] &&
        values[(y - 1) * width + x] && values[(y + 1) * width + x];
      if (!isInside) ++outline;
    }
    return (2 * area) / Math.max(outline, 1);
  }

  // Cut digits out of a picture: of each the image, uint8 (28, 28).
  function cutDigits(grey, boxes) {
    const windows = boxes.map((box) => makeWindow(grey, box));
    const lights = judgeLight(windows, boxes);
    return windows.map((window, index) => {
      const box = roundBox(window, boxes[index]), size = window.pixels.width, { inside } = window;
      const [pixels, halves] = [window.pixels, window.halves].map((plane) => (lights[index] ? plane.map((pixel) => 255 - pixel) : plane));
      const strength = measureInk(pixels, halves).map((value, at) => {
        const x = at % size, y = Math.floor(at / size);
        return x >= inside.left && x < inside.right && y >= inside.top && y < inside.bottom ? value : 0;
      });
      const { paper, ink, peak } = findLevels(strength, box);
      const bound = paper + crops.ink * (ink - paper), low = paper + crops.blank * (peak - paper);
      const own = takeOwn(strength.map((value) => (value > bound ? 255 : 0)), window, index, boxes);
      const wide = own.choose(Math.max, CROSS);
      let shown = strength.map((value, at) => Math.min(value, wide.values[at]));
      if (crops.pen * crops.resolution - measureThickness(own) > 0.5) shown = shown.choose(Math.max, CROSS);
      const gain = 255 / Math.max(peak - low, 1);
      shown = shown.map((value) => toByte(Math.max(value - roundEven(low), 0) * gain));
      const part = shown.findBox(), ends = own.findBox();
      if (!part || !ends) return { image: new Uint8Array(crops.SIZE ** 2), box: boxes[index] };
      const place = (value, corner) => value / window.scale + corner;
      return {
        image: placeDigit(shown.cut(part.left, part.top, part.right - part.left, part.bottom - part.top)),
        box: {
          left: place(ends.left, window.x), top: place(ends.top, window.y),
          right: place(ends.right, window.x), bottom: place(ends.bottom, window.y),
        },
      };
    });
  }

  // Ink in its box, 0 to 255, fitted into 20x20 pixels, in 28x28 with its centre of mass in the middle: uint8 (28, 28),
  // as MNIST's makers placed digits (LeCun, Cortes, Burges, "The MNIST database").
  function placeDigit(ink) {
    const scale = crops.FIT / Math.max(ink.width, ink.height);
    const [width, height] = [ink.width, ink.height].map((side) => Math.max(1, roundEven(side * scale)));
    let small = ink.resize(width, height, weighLinear).map(toByte);
    const highest = small.values.reduce((a, b) => Math.max(a, b));
    if (highest > 0) small = small.map((value) => toByte((value * 255) / highest));
    let mass = 0, across = 0, down = 0;
    small.values.forEach((value, at) => {
      mass += value;
      across += value * (at % width);
      down += value * Math.floor(at / width);
    });
    const begin = (mean, length) => clamp(roundEven((crops.SIZE - 1) / 2 - mean), 0, crops.SIZE - length);
    const left = begin(across / (mass || 1), width), top = begin(down / (mass || 1), height);
    const image = new Uint8Array(crops.SIZE ** 2);
    small.values.forEach((value, at) => { image[(top + Math.floor(at / width)) * crops.SIZE + left + (at % width)] = value; });
    return image;
  }

  // --- Lines (layout.py, for pages that are level) ---

  // Arrange boxes in lines from the top down, each from left to right, split into numbers: indices of the boxes.
  function arrange(boxes) {
    const places = boxes.map(({ left, top, right, bottom }) => ({ left, right, middle: (top + bottom) / 2, height: Math.max(bottom - top, 1e-6) }));
    const lines = joinRuns(places, linkDigits(places));
    const level = (line) => sum(line.map((index) => places[index].middle)) / line.length;
    return splitLines(places, lines.sort((a, b) => level(a) - level(b)));
  }

  // Whether one run may be the continuation of another, by the digits where they meet.
  function continues(places, before, after) {
    const ends = [before.slice(-layout.BAND), after.slice(0, layout.BAND)].map((end) => end.map((index) => places[index]));
    const [low, high] = ends.map((end) => median(end.map(({ height }) => height))).sort((a, b) => a - b);
    const [one, other] = ends.map((end) => sum(end.map(({ middle }) => middle)) / end.length);
    return Math.abs(one - other) <= layout.offset * high && high <= layout.ratio * low;
  }

  // Join lists of digits, the nearest first: `pairs` are { before, after, distance }, of digits.
  function joinLists(places, lists, pairs) {
    const ends = new Map(lists.map((list) => [list.at(-1), list])), starts = new Map(lists.map((list) => [list[0], list]));
    for (const { before, after } of pairs.sort((a, b) => a.distance - b.distance)) {
      const first = ends.get(before), second = starts.get(after);
      if (!first || !second || first === second || !continues(places, first, second)) continue;
      ends.delete(before);
      starts.delete(after);
      first.push(...second);
      ends.set(first.at(-1), first);
    }
    return [...starts.values()];
  }

  // Link digits whose gaps are narrow to runs, each from left to right.
  function linkDigits(places) {
    const pairs = [];
    places.forEach((one, before) => places.forEach((other, after) => {
      const larger = Math.max(one.height, other.height), gap = other.left - one.right, offset = Math.abs(one.middle - other.middle);
      const follows = one.left + one.right < other.left + other.right;
      if (follows && gap <= layout.near * larger && offset <= layout.offset * larger) pairs.push({ before, after, distance: (gap + offset) / larger });
    }));
    return joinLists(places, places.map((_, index) => [index]), pairs);
  }

  // Join runs across wide gaps where they are level.
  function joinRuns(places, runs) {
    const mean = (run) => sum(run.map((index) => places[index].middle)) / run.length;
    const ends = runs.map((run) => ({
      left: places[run[0]].left, right: places[run.at(-1)].right, height: median(run.map((index) => places[index].height)),
      start: mean(run.slice(0, layout.BAND)), end: mean(run.slice(-layout.BAND)),
    }));
    const pairs = [];
    ends.forEach((one, first) => ends.forEach((other, second) => {
      const offset = Math.abs(one.end - other.start) / (0.5 * (one.height + other.height));
      if (one.right <= other.left && offset <= layout.aligned) {
        pairs.push({ before: runs[first].at(-1), after: runs[second][0], distance: other.left - one.right });
      }
    }));
    return joinLists(places, runs, pairs);
  }

  // Split lines into numbers where a gap is wider than usual: of each line the numbers, of each its digits.
  function splitLines(places, lines) {
    const gaps = lines.map((line) => {
      const height = median(line.map((index) => places[index].height));
      return line.slice(1).map((index, at) => (places[index].left - places[line[at]].right) / height);
    });
    const lower = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 4)];
    const usual = lower(gaps.flat()) ?? 0;
    return lines.map((line, number) => {
      const limit = Math.min(lower([...gaps[number], usual]) + layout.space, layout.widest);
      const numbers = [[line[0]]];
      line.slice(1).forEach((index, at) => (gaps[number][at] > limit ? numbers.push([index]) : numbers.at(-1).push(index)));
      return numbers;
    });
  }

  // --- How sure it is (confidence.py) ---

  const logChance = (chance) => Math.log(Math.max(chance, LEAST_CHANCE));
  // The logarithms of the geometric means of both networks' probabilities, which are made to add up to 1.
  function joinChances(chances, opinions) {
    const scores = opinions.map((opinion, digit) => (logChance(chances[digit]) + Math.log(Math.max(opinion, 1e-300))) / 2);
    return softmax(scores).map((chance) => Math.log(Math.max(chance, 1e-300)));
  }

  // The most probable digit for both networks together.
  function chooseLabel(chances, opinions) {
    const joined = joinChances(chances, opinions);
    return joined.indexOf(Math.max(...joined));
  }

  // The indices of the nearest digits of similar size around each box.
  function findNeighbours(boxes) {
    const { NEIGHBOURS, REACH } = settings.layout;
    const places = boxes.map(({ left, top, right, bottom }) => (
      { x: (left + right) / 2, y: (top + bottom) / 2, size: Math.max(right - left, bottom - top, 1e-6) }));
    return places.map(({ x, y, size }) => places
      .map((other, index) => ({ index, size: other.size, away: Math.hypot(other.x - x, other.y - y) }))
      .filter((other) => other.away > 0 && other.away < REACH * Math.max(size, other.size)
        && other.size < 2 * size && size < 2 * other.size)
      .sort((one, other) => one.away - other.away)
      .slice(0, NEIGHBOURS).map(({ index }) => index));
  }

  const weigh = (constants, features) => constants[0] + sum(features.map((value, index) => constants[index + 1] * value));

  // The probability that each digit is there and read right, from what was found, with the box, the finder's confidence
  // and the probabilities of its labels, and from what DigitNet says of it.
  function estimate(found, chances, labels) {
    const rows = found.map(({ confidence, opinions }, index) => [
      Math.log(Math.max(confidence, 1e-9) / Math.max(1 - confidence, 1e-9)),
      logChance(chances[index][labels[index]]), joinChances(chances[index], opinions)[labels[index]],
    ]);
    const odds = rows.map((row) => Math.min(Math.max(weigh(ALONE, row), -MOST_ODDS), MOST_ODDS));
    return findNeighbours(found.map(({ box }) => box)).map((others, index) => {
      const company = sum(others.map((other) => odds[other])) / Math.max(others.length, 1);
      return 1 / (1 + Math.exp(-weigh(WEIGHTS, [...rows[index], company])));
    });
  }

  // Read a picture. `look` gives the map of a canvas and is awaited, `classify` the probabilities of an image. The result
  // is { text, digits }: the lines, with a space between numbers and `?` for doubtful digits, and the digits in reading
  // order with box, label, certainty, image, and whether they are doubtful.
  async function read(grey, look, classify, looks) {
    const least = Math.min(UNSURE, THRESHOLD);
    let found = (await findDigits(grey, look, looks)).slice(0, settings.reader.most)
      .map((one) => ({ ...one, opinions: softmax(one.logits) }));
    const cut = () => cutDigits(grey, found.map(({ box }) => box));
    let cuts = cut();
    const isPart = findParts(found, cuts.map(({ box }) => box));
    if (isPart.includes(true)) { // the ink of a part belongs to its digit
      found = found.filter((_, index) => !isPart[index]);
      cuts = cut();
    }
    const images = cuts.map(({ image }) => image);
    const chances = images.map(classify);
    const labels = found.map(({ opinions }, index) => chooseLabel(chances[index], opinions));
    const certainties = estimate(found, chances, labels);
    const digits = found.map(({ box }, index) => ({
      box, image: images[index], label: labels[index], certainty: certainties[index],
      isDoubtful: certainties[index] < THRESHOLD,
    })).filter(({ certainty }) => certainty >= least);
    const lines = arrange(digits.map(({ box }) => box))
      .map((numbers) => numbers.map((number) => number.map((index) => digits[index])))
      .filter((numbers) => numbers.flat().some(({ isDoubtful }) => !isDoubtful));
    const write = (number) => number.map(({ label, isDoubtful }) => (isDoubtful ? DOUBTFUL : label)).join("");
    return { text: lines.map((numbers) => numbers.map(write).join(" ")).join("\n"), digits: lines.flat(2) };
  }

  return {
    makeScales, makeTiles, placePictures, drawCanvas, splitPlaces, findPeaks, takeInside, chooseTiles, suppress,
    doubtOverlapping, findParts, findDigits, cutDigits, placeDigit, arrange, chooseLabel, estimate, read,
  };
}
