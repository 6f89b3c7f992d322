// Surfaces of a page that a reader turns by hand. Each stands in the box from 0 to 1 that its data describe, is seen
// from far away, and is drawn cell by cell from the back to the front.
(() => {
  "use strict";
  const START = { azimuth: -60, elevation: 30 };
  const RAISED = 0.6; // height of the box in units of its sides
  const SPAN = Math.SQRT2; // width of the turning base at its widest
  const STEP = 5; // degrees for an arrow key
  const PER_PIXEL = 0.5; // degrees for a pixel of a drag
  const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const DARK = matchMedia("(prefers-color-scheme: dark)");

  const radians = (degrees) => (degrees * Math.PI) / 180;
  const mix = (a, b, share) => a + share * (b - a);
  const shaded = (color, shade) => color.map((part) => Math.min(255, shade * part));
  const rgb = (color) => `rgb(${color.map(Math.round).join(" ")})`;

  function colorAt(colors, share) {
    const at = Math.min(Math.max(share, 0), 1) * (colors.length - 1);
    const below = Math.min(Math.floor(at), colors.length - 2);
    return colors[below].map((part, k) => mix(part, colors[below + 1][k], at - below));
  }

  // How bright a cell is: the light falls from above, a little from the side.
  function shadeOf([a, b, c, d], width, depth) {
    const across = ((b + c - a - d) * RAISED) / (2 * width);
    const along = ((c + d - a - b) * RAISED) / (2 * depth);
    return 0.8 + (0.24 * (1 + 0.5 * across - 0.3 * along)) / Math.hypot(1.16, across, along);
  }

  // Every cell with its corners, unless one of them is missing, and its colors, which do not depend on the view.
  function cellsOf(data) {
    const colors = data.colors.map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
    const [low, high] = data.colored;
    return data.z.slice(1).map((row, i) =>
      row.slice(1).map((corner, j) => {
        const corners = [data.z[i][j], data.z[i + 1][j], corner, data.z[i][j + 1]];
        if (corners.includes(null)) return null;
        const mean = corners.reduce((sum, height) => sum + height) / 4;
        const color = colorAt(colors, (mean - low) / (high - low));
        const shade = shadeOf(corners, data.x[i + 1] - data.x[i], data.y[j + 1] - data.y[j]);
        const fill = shaded(color, shade);
        const light = fill.map((part) => mix(part, 255, 0.18));
        return { corners, fill: rgb(fill), dark: rgb(shaded(fill, 0.8)), light: rgb(light) };
      }),
    );
  }

  function cellAt(grid, value) {
    const next = grid.findIndex((end) => end > value);
    return next < 0 ? grid.length - 2 : Math.max(next - 1, 0);
  }

  // The cell of a place, and whether the place is below it.
  function standing(data, cells, [x, y, z]) {
    const [i, j] = [cellAt(data.x, x), cellAt(data.y, y)];
    const s = (x - data.x[i]) / (data.x[i + 1] - data.x[i]);
    const t = (y - data.y[j]) / (data.y[j + 1] - data.y[j]);
    const [a, b, c, d] = cells[i][j] ? cells[i][j].corners : [0, 0, 0, 0];
    return { i, j, below: z < mix(mix(a, b, s), mix(d, c, s), t) - 0.005 };
  }

  // The pieces of the path and the dots on it and beside it.
  function marksOf(data, cells) {
    const { path } = data;
    const marks = path.slice(1).flatMap((end, k) => {
      const start = path[k];
      if (!start || !end) return [];
      return [{ start, end, ...standing(data, cells, start.map((value, axis) => (value + end[axis]) / 2)) }];
    });
    const { line, casing } = data;
    const ends = [[path[0], casing, line], [path[path.length - 1], line, casing]];
    const dots = [
      ...ends.filter(([place]) => place).map(([place, fill, rim]) => ({ place, fill, rim })),
      ...data.points.map(({ place, label }) => ({ place, label, fill: line, rim: casing })),
    ];
    return [...marks, ...dots.map((dot) => ({ ...dot, ...standing(data, cells, dot.place) }))];
  }

  function projection({ azimuth, elevation }, scale, [x0, y0]) {
    const [sin, cos] = [Math.sin(radians(azimuth)), Math.cos(radians(azimuth))];
    const [rise, flat] = [Math.sin(radians(elevation)), Math.cos(radians(elevation))];
    return ([x, y, z]) => {
      const across = (y - 0.5) * cos - (x - 0.5) * sin;
      const toward = (x - 0.5) * cos + (y - 0.5) * sin;
      return [x0 + scale * across, y0 + scale * (rise * toward - flat * RAISED * (z - 0.5))];
    };
  }

  function cut(context, text, width) {
    let words = text;
    while (words.length > 1 && context.measureText(words).width > width) words = `${words.slice(0, -2)}…`;
    return words;
  }

  // At most two lines; the map of the surface says long labels in full.
  function wrapped(context, text, width) {
    const lines = [];
    for (const word of text.split(/\s+/)) {
      const longer = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
      if (lines.length && context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    if (lines.length > 2) lines.splice(1, lines.length, `${lines[1]}…`);
    return lines.map((line) => cut(context, line, width));
  }

  class Turned {
    constructor(box) {
      this.data = JSON.parse(box.querySelector("script").textContent);
      this.canvas = box.querySelector("canvas");
      this.context = this.canvas.getContext("2d");
      if (!this.context) return;
      this.view = { ...START };
      this.cells = cellsOf(this.data);
      this.marks = marksOf(this.data, this.cells);
      this.listen(box.querySelector("button"));
      box.hidden = false;
      this.draw();
    }

    listen(button) {
      const { canvas } = this;
      let last = null;
      canvas.addEventListener("pointerdown", (event) => {
        if (event.isPrimary && event.button === 0) last = [event.clientX, event.clientY];
      });
      addEventListener("pointermove", (event) => {
        if (!last || !event.isPrimary) return;
        if (!event.buttons) last = null;
        else {
          this.turn(PER_PIXEL * (event.clientX - last[0]), PER_PIXEL * (event.clientY - last[1]));
          last = [event.clientX, event.clientY];
        }
      });
      canvas.addEventListener("keydown", (event) => {
        const way = TURNS[event.key];
        if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        this.turn(STEP * way[0], STEP * way[1]);
      });
      button.addEventListener("click", () => {
        this.view = { ...START };
        this.draw();
      });
      new ResizeObserver(() => this.draw()).observe(canvas);
      DARK.addEventListener("change", () => this.draw());
    }

    // As if the box were pulled to the right and downwards by so many degrees.
    turn(right, down) {
      this.view.azimuth = (this.view.azimuth - right) % 360;
      this.view.elevation = Math.min(90, Math.max(0, this.view.elevation + down));
      this.draw();
    }

    draw() {
      const { canvas, context } = this;
      const [width, height, dots] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
      this.dots = dots;
      if (!width || !height) return;
      const pixels = [Math.round(width * dots), Math.round(height * dots)];
      if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
      context.setTransform(dots, 0, 0, dots, 0, 0);
      context.clearRect(0, 0, width, height);
      const style = getComputedStyle(canvas);
      [this.ink, this.rule, this.paper] = ["--ink", "--rule", "--paper"].map((name) => style.getPropertyValue(name));
      this.letter = width < 480 ? 11 : 12.5;
      context.font = `${this.letter}px ${style.fontFamily}`;
      context.lineJoin = "round";
      context.textAlign = "center";
      context.textBaseline = "middle";
      this.place(width, height);
      this.drawBox();
      this.drawCells();
      this.drawHidden();
      this.drawDots(width);
      this.drawAxes();
    }

    // Where the box is, so that it stays inside of the canvas with its labels however it is turned.
    place(width, height) {
      const { context, data, letter } = this;
      const line = 1.25 * letter;
      const beside = data.ticks.map((ticks, axis) => {
        const widest = Math.max(0, ...ticks.map(([, words]) => context.measureText(words).width));
        const lines = wrapped(context, data.labels[axis], 0.4 * Math.min(width, height)).length;
        return [widest + 0.8 * letter, lines * line + 0.4 * letter];
      });
      const left = beside[2][0] + beside[2][1] + 4;
      const right = Math.max(...[0, 1].map((axis) => 0.5 * (beside[axis][0] + beside[axis][1])));
      const below = Math.max(...[0, 1].map((axis) => beside[axis][1])) + line;
      const flat = radians(this.view.elevation);
      const tall = RAISED * Math.cos(flat) + SPAN * Math.sin(flat);
      const scale = Math.min((width - left - right) / SPAN, (height - below - letter) / tall);
      this.project = projection(this.view, scale, [(left + width - right) / 2, (letter + height - below) / 2]);
      this.front = [Math.cos(radians(this.view.azimuth)), Math.sin(radians(this.view.azimuth))].map((v) => +(v >= 0));
    }

    stroke(places, color, width) {
      const { context } = this;
      context.beginPath();
      places.forEach((place) => context.lineTo(...this.project(place)));
      context.strokeStyle = color;
      context.lineWidth = width;
      context.stroke();
    }

    // The floor and the two walls behind the surface, with lines at the ticks.
    drawBox() {
      const [x, y] = this.front.map((side) => 1 - side);
      const walls = [
        [0, (a) => [[a, 0, 0], [a, 1, 0]]], [1, (a) => [[0, a, 0], [1, a, 0]]],
        [0, (a) => [[a, y, 0], [a, y, 1]]], [2, (a) => [[0, y, a], [1, y, a]]],
        [1, (a) => [[x, a, 0], [x, a, 1]]], [2, (a) => [[x, 0, a], [x, 1, a]]],
      ];
      for (const [axis, line] of walls) {
        for (const at of [0, 1, ...this.data.ticks[axis].map(([place]) => place)]) this.stroke(line(at), this.rule, 1);
      }
    }

    drawCells() {
      const { context, data } = this;
      const places = data.x.map((x, i) => data.y.map((y, j) => this.project([x, y, data.z[i][j] || 0])));
      const held = this.held();
      const passed = [];
      const order = (count, reversed) => [...Array(count).keys()].map((k) => (reversed ? count - 1 - k : k));
      const columns = order(data.y.length - 1, !this.front[1]);
      context.lineWidth = 0.6;
      for (const i of order(data.x.length - 1, !this.front[0])) {
        for (const j of columns) {
          const marks = held.get(i * data.y.length + j) || [];
          for (const mark of marks) if (mark.below) this.pass(mark, passed);
          const cell = this.cells[i][j];
          if (cell) {
            context.beginPath();
            for (const corner of [places[i][j], places[i + 1][j], places[i + 1][j + 1], places[i][j + 1]]) {
              context.lineTo(...corner);
            }
            context.closePath();
            context.lineWidth = 0.6;
            context.fillStyle = cell.fill;
            context.strokeStyle = DARK.matches ? cell.light : cell.dark;
            context.fill();
            context.stroke();
            for (const dot of passed) dot.hidden ||= context.isPointInPath(...dot.at);
          }
          for (const mark of marks) if (!mark.below) this.pass(mark, passed);
        }
      }
    }

    // A piece is drawn when its turn comes; a dot waits to see whether a nearer cell hides it.
    pass(mark, passed) {
      if (mark.start) this.drawPiece(mark);
      else {
        mark.at = this.project(mark.place).map((value) => this.dots * value);
        mark.hidden = false;
        passed.push(mark);
      }
    }

    // Pieces and dots by the cell with which they are drawn. What lies on the surface comes a cell later, so that the
    // next cell does not cover half of a line.
    held() {
      const [rows, columns] = [this.data.x.length - 1, this.data.y.length - 1];
      const toward = this.front.map((side) => (side ? 1 : -1));
      const found = new Map();
      for (const mark of this.marks) {
        const i = mark.below ? mark.i : Math.min(Math.max(mark.i + toward[0], 0), rows - 1);
        const j = mark.below ? mark.j : Math.min(Math.max(mark.j + toward[1], 0), columns - 1);
        const key = i * (columns + 1) + j;
        if (!found.has(key)) found.set(key, []);
        found.get(key).push(mark);
      }
      return found;
    }

    drawPiece({ start, end }) {
      this.context.lineCap = "butt";
      this.stroke([start, end], this.data.casing, 4.4);
      this.context.lineCap = "round";
      this.stroke([start, end], this.data.line, 2.2);
    }

    // What the surface hides of the path shines through.
    drawHidden() {
      this.context.globalAlpha = 0.55;
      this.context.setLineDash([0.1, 5]);
      for (let from = 0, to = 0; to <= this.data.path.length; to += 1) {
        if (this.data.path[to]) continue;
        this.stroke(this.data.path.slice(from, to), this.data.line, 2.2);
        from = to + 1;
      }
      this.context.setLineDash([]);
      this.context.globalAlpha = 1;
    }

    drawDot({ place, fill, rim, hidden }) {
      const { context } = this;
      context.globalAlpha = hidden ? 0.5 : 1;
      context.beginPath();
      context.arc(...this.project(place), 4.5, 0, 2 * Math.PI);
      context.fillStyle = fill;
      context.strokeStyle = rim;
      context.lineWidth = 2;
      context.fill();
      context.stroke();
      context.globalAlpha = 1;
    }

    drawDots(width) {
      const { context } = this;
      const dots = this.marks.filter(({ place }) => place);
      for (const dot of dots) this.drawDot(dot);
      for (const { place, label } of dots) {
        if (!label) continue;
        const [x, y] = this.project(place);
        const words = cut(context, label, 0.35 * width);
        const half = context.measureText(words).width / 2 + 9;
        const at = x + 2 * half > width ? x - half : x + half;
        context.strokeStyle = this.paper;
        context.fillStyle = this.ink;
        context.lineWidth = 4;
        context.strokeText(words, at, y);
        context.fillText(words, at, y);
      }
    }

    drawAxes() {
      const [x, y] = this.front;
      const side = [[x, 1 - y], [1 - x, y]].sort((a, b) => this.project([...a, 0])[0] - this.project([...b, 0])[0])[0];
      this.drawn = [];
      this.drawAxis(0, (at) => [at, y, 0]);
      this.drawAxis(1, (at) => [x, at, 0]);
      if (this.view.elevation < 75) this.drawAxis(2, (at) => [...side, at]);
    }

    drawAxis(axis, along) {
      const [start, end] = [0, 1].map((at) => this.project(along(at)));
      this.stroke([along(0), along(1)], this.ink, 1);
      const [across, down] = this.outward(start, end);
      const reach = (width, height) => Math.abs(across) * width + Math.abs(down) * height;
      let widest = 0;
      for (const [at, words] of this.data.ticks[axis]) {
        const [width, height] = [this.context.measureText(words).width, this.letter];
        const [px, py] = this.project(along(at));
        const away = 0.45 * this.letter + reach(width, height) / 2;
        widest = Math.max(widest, reach(width, height));
        this.write(words, [px + across * away, py + down * away], width + 4, height);
      }
      const line = 1.25 * this.letter;
      const length = Math.hypot(end[0] - start[0], end[1] - start[1]);
      if (length < 3 * this.letter) return;
      const lines = wrapped(this.context, this.data.labels[axis], Math.max(length, 8 * this.letter));
      const away = 0.9 * this.letter + widest + (line * lines.length) / 2;
      this.title(lines, [(start[0] + end[0]) / 2 + across * away, (start[1] + end[1]) / 2 + down * away], start, end);
    }

    // The direction on the screen that leads away from the box, at right angles to one of its edges.
    outward(start, end) {
      const [dx, dy] = [end[0] - start[0], end[1] - start[1]];
      const length = Math.hypot(dx, dy);
      if (length < 1) return [0, 1];
      const normal = [-dy / length, dx / length];
      const [x, y] = this.project([0.5, 0.5, 0.5]);
      const away = normal[0] * ((start[0] + end[0]) / 2 - x) + normal[1] * ((start[1] + end[1]) / 2 - y);
      return away >= 0 ? normal : normal.map((part) => -part);
    }

    // A tick, unless it would stand on another one.
    write(words, [x, y], width, height) {
      const meets = ([a, b, w, h]) => Math.abs(a - x) < (w + width) / 2 && Math.abs(b - y) < (h + height) / 2;
      if (this.drawn.some(meets)) return;
      this.drawn.push([x, y, width, height]);
      this.context.fillStyle = this.ink;
      this.context.fillText(words, x, y);
    }

    title(lines, [x, y], start, end) {
      const { context } = this;
      let angle = Math.atan2(end[1] - start[1], end[0] - start[0]);
      if (angle > Math.PI / 2 - 1e-9) angle -= Math.PI;
      if (angle < -Math.PI / 2 - 1e-9) angle += Math.PI;
      context.save();
      context.translate(x, y);
      context.rotate(angle);
      context.fillStyle = this.ink;
      lines.forEach((line, k) => context.fillText(line, 0, (k - (lines.length - 1) / 2) * 1.25 * this.letter));
      context.restore();
    }
  }

  for (const box of document.querySelectorAll(".turn")) new Turned(box);
})();
