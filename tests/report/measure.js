// What a reader would see of a page, measured in frames of several widths. Defines `measure(frame)`.

const TEXT_ATTRIBUTES = new Set(["href", "xlink:href", "src", "srcset", "poster", "data", "action", "style"]);
const SHAPES = "path, use, rect, line, polyline, polygon, circle, ellipse";

function describe(element) {
  const name = element.id ? `#${element.id}` : [...element.classList].map((c) => `.${c}`).join("");
  return `<${element.localName}${name}> ${element.textContent.trim().replace(/\s+/g, " ").slice(0, 60)}`;
}

function ancestors(element) {
  const found = [];
  for (let e = element; e; e = e.parentElement) found.push(e);
  return found;
}

// The part of a box that no container cuts off, or null.
function visible(box, element, view) {
  let { left, top, right, bottom } = box;
  for (const around of ancestors(element)) {
    const style = view.getComputedStyle(around);
    if (style.visibility === "hidden" || style.opacity === "0" || style.clipPath.includes("50%")) return null;
    if (around.ownerSVGElement || around === view.document.documentElement || around === view.document.body) continue;
    if (style.overflowX === "visible" && style.overflowY === "visible") continue;
    const cut = around.getBoundingClientRect();
    left = Math.max(left, cut.left);
    right = Math.min(right, cut.right);
    top = Math.max(top, cut.top);
    bottom = Math.min(bottom, cut.bottom);
  }
  return right - left > 0.5 && bottom - top > 0.5 ? { left, top, right, bottom } : null;
}

// Every line of visible text: its words, its element and its box.
function lines(document, view) {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const element = node.parentElement;
    const boxes = element.ownerSVGElement ? [element.getBoundingClientRect()] : [...range.getClientRects()];
    for (const whole of boxes) {
      const box = visible(whole, element, view);
      if (box) found.push({ element, words: node.data.trim().slice(0, 60), box });
    }
  }
  return found;
}

function clipped(element, view) {
  return ancestors(element.parentElement).some(
    (e) => e !== view.document.body && e.parentElement && view.getComputedStyle(e).overflowX !== "visible",
  );
}

function overflowing(document, view, texts) {
  const width = document.documentElement.clientWidth;
  const found = [...document.body.querySelectorAll("*")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width && (box.right > width + 0.5 || box.left < -0.5) && !e.closest("defs") && !clipped(e, view);
  });
  const said = found.map(describe);
  for (const { words, box } of texts) if (box.right > width + 0.5 || box.left < -0.5) said.push(`text ${words}`);
  const scroll = document.documentElement.scrollWidth;
  if (scroll > width) said.push(`the document is ${scroll} wide in ${width}`);
  return said;
}

// Pairs of texts on top of each other.
function overlapping(texts) {
  const found = [];
  const sorted = [...texts].sort((a, b) => a.box.top - b.box.top);
  sorted.forEach((a, i) => {
    for (const b of sorted.slice(i + 1)) {
      if (b.box.top >= a.box.bottom) break;
      if (a.element === b.element) continue;
      const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      const height = Math.min(a.box.bottom - a.box.top, b.box.bottom - b.box.top);
      const width = Math.min(a.box.right - a.box.left, b.box.right - b.box.left);
      if (across > Math.min(1, width / 4) && down > height / 4) found.push(`${a.words} | ${b.words}`);
    }
  });
  return found;
}

function leaving(texts) {
  return texts
    .filter(({ element, box }) => {
      if (!element.ownerSVGElement) return false;
      const frame = element.ownerSVGElement.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
    })
    .map(({ words }) => words);
}

// The size in pixels of the smallest letters of the figures.
function smallest(texts, view) {
  const sizes = texts
    .filter(({ element }) => element.ownerSVGElement)
    .map(({ element }) => parseFloat(view.getComputedStyle(element).fontSize) * element.getScreenCTM().d);
  const upright = sizes.filter((size) => size > 0.01);
  return upright.length ? Math.min(...upright) : null;
}

function color(text) {
  const parts = (text.match(/[\d.]+/g) || []).map(Number);
  return parts.length < 3 ? null : { rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1 };
}

function over(top, alpha, bottom) {
  return top.map((value, i) => alpha * value + (1 - alpha) * bottom[i]);
}

function background(element, view) {
  let result = [255, 255, 255];
  for (const around of ancestors(element).reverse()) {
    const paint = color(view.getComputedStyle(around).backgroundColor);
    if (paint && !around.ownerSVGElement) result = over(paint.rgb, paint.alpha, result);
  }
  return result;
}

function opacity(element, view) {
  return ancestors(element).reduce((all, e) => all * parseFloat(view.getComputedStyle(e).opacity), 1);
}

function luminance(rgb) {
  const linear = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

function contrast(rgb, paper) {
  const [low, high] = [luminance(rgb), luminance(paper)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

// Words that hardly stand out from the page, but for those on the colors of a map.
function faintText(texts, view) {
  const found = new Set();
  for (const { element, words } of texts) {
    if (element.closest("[id*='-on-map-']")) continue;
    const style = view.getComputedStyle(element);
    const paper = background(element, view);
    const paint = color(element.ownerSVGElement ? style.fill : style.color);
    const ratio = contrast(over(paint.rgb, paint.alpha * opacity(element, view), paper), paper);
    if (ratio < 4.5) found.add(`${ratio.toFixed(2)} ${words}`);
  }
  return [...found];
}

// Lines and symbols that hardly stand out; what is meant to be faint, as the grid, is left out, and so is what lies on
// the colors of a map.
function faintShapes(document, view) {
  const found = new Set();
  const colors = new Set();
  for (const shape of document.querySelectorAll("svg")) {
    if (!shape.getBoundingClientRect().width) continue;
    const paper = background(shape, view);
    for (const element of shape.querySelectorAll(SHAPES)) {
      if (element.closest("defs, clipPath, [id*='-on-map-']")) continue;
      const style = view.getComputedStyle(element);
      for (const kind of ["stroke", "fill"]) {
        const paint = color(style[kind]);
        const alpha = paint && paint.alpha * parseFloat(style[`${kind}Opacity`]) * opacity(element, view);
        if (!paint || alpha < 0.5) continue;
        const ratio = contrast(over(paint.rgb, alpha, paper), paper);
        colors.add(style[kind]);
        if (ratio < 3) found.add(`${ratio.toFixed(2)} ${style[kind]}`);
      }
    }
  }
  return { faint: [...found], colors: [...colors] };
}

// Addresses that would be fetched; links that wait to be followed may lead to files beside the page.
function fetched(document, view) {
  const found = view.performance.getEntriesByType("resource").map((entry) => entry.name);
  for (const element of document.querySelectorAll("*")) {
    for (const { name, value } of element.attributes) {
      if (!TEXT_ATTRIBUTES.has(name)) continue;
      const outside = name === "style" ? /url\((?!["']?(#|data:))/.test(value) : !/^(#|data:)/.test(value);
      const waits = element.localName === "a" && !/^[a-z]+:|^\/\//i.test(value);
      if (outside && !waits) found.push(`${element.localName} ${name} ${value}`);
    }
    if (element.localName === "style" && /@import|url\(/.test(element.textContent)) found.push("a style sheet fetches");
  }
  return found;
}

function open(document) {
  const stuck = [];
  for (const details of document.querySelectorAll("details")) {
    const before = details.getBoundingClientRect().height;
    if (!details.open) details.querySelector("summary").click();
    if (!details.open || details.getBoundingClientRect().height < before + 10) stuck.push(describe(details));
  }
  return stuck;
}

function measure(frame) {
  const view = frame.contentWindow;
  const document = frame.contentDocument;
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  const anchors = [...document.querySelectorAll("a[href^='#']")].map((e) => e.getAttribute("href").slice(1));
  const stuck = open(document);
  const texts = lines(document, view);
  const shown = [...document.querySelectorAll("svg")].map((e) => e.getBoundingClientRect());
  const shapes = faintShapes(document, view);
  return {
    width: document.documentElement.clientWidth,
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    headings: [...document.querySelectorAll("h1, h2")].filter((e) => e.getBoundingClientRect().height).map((e) => e.textContent),
    contents: [...document.querySelectorAll("nav li a")].map((e) => e.getAttribute("href")),
    figures: shown.filter((box) => box.width > 100 && box.height > 100).length,
    details: document.querySelectorAll("details").length,
    texts: texts.length,
    colors: shapes.colors,
    smallest: smallest(texts, view),
    faults: {
      "repeated ids": ids.filter((id, i) => ids.indexOf(id) !== i),
      "dead anchors": anchors.filter((id) => !ids.includes(id)),
      "details that do not open": stuck,
      fetched: fetched(document, view),
      overflow: overflowing(document, view, texts),
      overlaps: overlapping(texts),
      "text outside its figure": leaving(texts),
      "faint text": faintText(texts, view),
      "faint shapes": shapes.faint,
    },
  };
}
