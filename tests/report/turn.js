// What happens to a turned surface under keys, a drag and its button. Defines `turn(frame)`; pictures become numbers.

async function turn(frame) {
  const view = frame.contentWindow;
  const document = frame.contentDocument;
  const box = document.querySelector(".turn");
  const canvas = box.querySelector("canvas");
  const seen = [];

  function picture() {
    const shown = canvas.toDataURL();
    if (!seen.includes(shown)) seen.push(shown);
    return seen.indexOf(shown);
  }
  function press(name, more = {}) {
    const event = new view.KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true, ...more });
    return canvas.dispatchEvent(event);
  }
  function key(name, more) {
    const scrolls = press(name, more);
    return { picture: picture(), scrolls };
  }
  function point(kind, x, y, buttons) {
    const at = { clientX: x, clientY: y, buttons, button: 0, isPrimary: true, bubbles: true };
    canvas.dispatchEvent(new view.PointerEvent(kind, at));
  }
  function drag(x, y) {
    point("pointerdown", 100, 100, 1);
    point("pointermove", 100 + x, 100 + y, 1);
    const during = picture();
    point("pointerup", 100 + x, 100 + y, 0);
    point("pointermove", 150 + x, 130 + y, 0);
    return { during, after: picture() };
  }
  const colors = () => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const found = new Set();
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) found.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);
    return found;
  };
  // The part of the picture that is neither empty nor gray.
  const colored = () => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {
      const parts = [data[i], data[i + 1], data[i + 2]];
      if (data[i + 3] === 255 && Math.max(...parts) - Math.min(...parts) > 30) count += 1;
    }
    return count / (canvas.width * canvas.height);
  };
  const button = box.querySelector("button");
  const reset = () => {
    button.click();
    return picture();
  };
  const repeat = (name, times) => {
    for (let i = 0; i < times; i += 1) press(name);
    return picture();
  };

  const settled = () => new Promise((resolve) => setTimeout(resolve, 500));
  const start = picture();
  const ink = view.getComputedStyle(document.body).color.match(/\d+/g).join(",");
  const result = {
    width: document.documentElement.clientWidth,
    shown: !box.hidden && canvas.clientWidth > 100 && canvas.clientHeight > 100,
    fits: canvas.getBoundingClientRect().right <= document.documentElement.clientWidth,
    sharp: [canvas.width / canvas.clientWidth, canvas.height / canvas.clientHeight, view.devicePixelRatio],
    colors: colors().size,
    colored: colored(),
    ink: colors().has(ink),
    start,
    left: key("ArrowLeft"),
    back: key("ArrowRight"),
    down: key("ArrowDown"),
    reset: reset(),
    other: key("a"),
    chord: key("ArrowLeft", { altKey: true }),
    drag: drag(40, -20),
    again: reset(),
    pulled: drag(10, 0),
    undone: key("ArrowLeft"),
    top: repeat("ArrowDown", 12),
    above: key("ArrowDown").picture,
  };
  button.click();
  result.round = repeat("ArrowRight", 72);
  canvas.focus();
  result.focused = document.activeElement === canvas;
  frame.style.width = "300px";
  await settled();
  result.narrower = picture();
  result.narrowed = [canvas.width / view.devicePixelRatio, canvas.clientWidth];
  return result;
}
