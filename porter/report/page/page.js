"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const WIDTH = 150, HEIGHT = 34, COLUMN = 170, ROW = 62;
  const canvas = document.getElementById("canvas"), pen = canvas.getContext("2d");
  const strip = document.getElementById("strip"), map = strip.getContext("2d");
  const SEVERITY = ["native", "fold", "rewrite", "host", "unknown", "unsupported"];
  const detail = document.getElementById("detail"), hits = document.getElementById("hits");
  const nodes = data.nodes.map(([kind, name, verdict, x, layer, place, reasons, rewrites, shapes, state, fix]) => ({
    kind: data.texts[kind], name: data.texts[name], verdict: data.verdicts[verdict],
    x: x * COLUMN, y: layer * ROW, place: data.texts[place], reasons: reasons.map((r) => data.texts[r]),
    rewrites: data.texts[rewrites], shapes: data.texts[shapes], state: data.texts[state], fix: data.texts[fix],
  }));
  const shown = Object.fromEntries(data.verdicts.map((verdict) => [verdict, true]));
  const bounds = nodes.reduce((box, n) => ({
    left: Math.min(box.left, n.x), right: Math.max(box.right, n.x), bottom: Math.max(box.bottom, n.y),
  }), { left: 0, right: 0, bottom: 0 });

  // Nodes and edges by bands of rows, so that a frame touches only what is in view. An edge that spans many bands is in
  // each of them.
  const BAND = ROW * 16;
  const band = (y) => Math.floor(y / BAND);
  const nodeBands = new Map(), edgeBands = new Map();
  const put = (map, key, item) => (map.get(key) || map.set(key, []).get(key)).push(item);
  nodes.forEach((n, i) => put(nodeBands, band(n.y), i));
  for (const edge of data.edges)
    for (let b = band(nodes[edge[0]].y); b <= band(nodes[edge[1]].y); b++) put(edgeBands, b, edge);

  let scale = 1, left = 0, top = 0, chosen = -1, found = new Set(), frame = 0, color = {};
  const readColors = () => {
    const style = getComputedStyle(document.documentElement);
    for (const name of [...data.verdicts, "ink", "dim", "line", "back"]) color[name] = style.getPropertyValue("--" + name);
  };
  const redraw = () => { frame = frame || requestAnimationFrame(draw); };

  function draw() {
    frame = 0;
    const dots = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== width * dots || canvas.height !== height * dots) {
      canvas.width = width * dots;
      canvas.height = height * dots;
    }
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.setTransform(dots * scale, 0, 0, dots * scale, -left * scale * dots, -top * scale * dots);
    const first = band(top - ROW), last = band(top + height / scale + ROW);
    if (scale > 0.04) drawEdges(first, last);
    const right = left + width / scale, readable = scale > 0.35;
    for (let b = first; b <= last; b++)
      for (const i of nodeBands.get(b) || []) {
        const n = nodes[i];
        if (n.x + WIDTH / 2 >= left && n.x - WIDTH / 2 <= right) drawNode(n, i, readable);
      }
    drawMap(height);
  }

  // The strip: the whole graph from top to bottom, each line in the colour of the worst verdict there.
  function drawMap(height) {
    const dots = devicePixelRatio, tall = bounds.bottom + ROW;
    strip.width = strip.clientWidth * dots;
    strip.height = height * dots;
    const lines = Math.min(height, tall / ROW), worst = new Int8Array(Math.ceil(lines)).fill(-1);
    for (const n of nodes) {
      const line = Math.floor((n.y / tall) * lines);
      if (shown[n.verdict]) worst[line] = Math.max(worst[line], SEVERITY.indexOf(n.verdict));
    }
    map.setTransform(dots, 0, 0, dots, 0, 0);
    worst.forEach((rank, line) => {
      map.fillStyle = rank < 0 ? color.back : color[SEVERITY[rank]];
      map.fillRect(3, (line / lines) * height, strip.clientWidth - 6, height / lines + 0.5);
    });
    map.strokeStyle = color.ink;
    map.lineWidth = 2;
    map.strokeRect(1, ((top + HEIGHT) / tall) * height, strip.clientWidth - 2, Math.max(4, (height / scale / tall) * height));
  }

  function drawEdges(first, last) {
    pen.lineWidth = 1.2;
    for (const strong of [false, true]) {
      pen.strokeStyle = strong ? color.ink : color.line;
      pen.beginPath();
      const done = new Set();
      for (let b = first; b <= last; b++)
        for (const edge of edgeBands.get(b) || []) {
          if (done.has(edge) || strong !== (edge[0] === chosen || edge[1] === chosen)) continue;
          done.add(edge);
          const a = nodes[edge[0]], z = nodes[edge[1]];
          const from = a.y + HEIGHT / 2, to = z.y - HEIGHT / 2;
          pen.moveTo(a.x, from);
          if (to - from > ROW) {
            // Past the ops between them: bow out to the side.
            const side = Math.max(a.x, z.x) + WIDTH * 0.62 + Math.min(120, (to - from) / 40);
            pen.bezierCurveTo(a.x, from + 24, side, from, side, from + ROW);
            pen.lineTo(side, to - ROW);
            pen.bezierCurveTo(side, to, z.x, to - 24, z.x, to);
          } else pen.bezierCurveTo(a.x, from + 18, z.x, to - 18, z.x, to);
        }
      pen.stroke();
    }
  }

  function drawNode(n, i, readable) {
    const faint = !shown[n.verdict] || (found.size && !found.has(i));
    pen.globalAlpha = faint ? 0.15 : 1;
    pen.fillStyle = color[n.verdict];
    // From afar a node is still a dot.
    const wide = Math.max(WIDTH, 6 / scale), tall = Math.max(HEIGHT, 1 / scale);
    pen.fillRect(n.x - wide / 2, n.y - tall / 2, wide, tall);
    if (i === chosen || found.has(i) || n.state === "new") {
      pen.strokeStyle = color.ink;
      pen.lineWidth = i === chosen ? 4 : 1.5;
      pen.strokeRect(n.x - WIDTH / 2, n.y - HEIGHT / 2, WIDTH, HEIGHT);
    }
    if (readable) {
      pen.fillStyle = color.ink;
      pen.textAlign = "center";
      pen.font = "600 13px system-ui, sans-serif";
      pen.fillText(n.kind, n.x, n.y - 2, WIDTH - 8);
      pen.font = "10px system-ui, sans-serif";
      pen.fillText(n.verdict === "native" ? shorten(n.place || n.name) : n.verdict, n.x, n.y + 12, WIDTH - 8);
    }
    pen.globalAlpha = 1;
  }

  const shorten = (text) => (text.length > 28 ? "…" + text.slice(-27) : text);

  function fit() {
    go(-1, false);
    const width = canvas.clientWidth, height = canvas.clientHeight;
    const wide = bounds.right - bounds.left + WIDTH + 160, tall = bounds.bottom + HEIGHT + 60;
    scale = Math.min(width / wide, height / tall, 1);
    left = (bounds.left + bounds.right) / 2 - width / scale / 2;
    top = bounds.bottom / 2 - height / scale / 2;
    redraw();
  }

  function start() {
    // Readable from the first moment: the worst problem, or the top of the graph.
    const worst = ["unsupported", "unknown", "host", "rewrite"].find((v) => nodes.some((n) => n.verdict === v));
    if (worst) go(nodes.findIndex((n) => n.verdict === worst), true);
    else centre(nodes[0] || { x: 0, y: 0 }, 0.8);
  }

  function centre(n, zoom) {
    scale = Math.max(scale, zoom);
    left = n.x - canvas.clientWidth / scale / 2;
    top = n.y - canvas.clientHeight / scale / 2;
    redraw();
  }

  function go(i, move) {
    chosen = i;
    const n = nodes[i];
    detail.replaceChildren();
    detail.hidden = !n;
    if (!n) return redraw();
    const add = (tag, text, parent = detail) => {
      const made = document.createElement(tag);
      made.textContent = text;
      return parent.appendChild(made);
    };
    add("h2", `${n.kind}: ${n.verdict}${n.verdict === "rewrite" ? " by " + n.rewrites : ""}` +
        (n.state === "known" ? " (known)" : ""));
    add("small", n.name);
    if (n.place) add("p", n.place);
    if (n.shapes) add("p", n.shapes);
    const list = n.reasons.length ? add("ul", "") : null;
    for (const reason of n.reasons) add("li", reason, list);
    if (n.fix) add("p", "fix: " + n.fix);
    if (move) centre(n, 0.8);
    redraw();
  }

  const problems = nodes.map((_, i) => i).filter((i) => !["native", "fold"].includes(nodes[i].verdict));
  function next() {
    const pool = found.size ? [...found] : problems.filter((i) => shown[nodes[i].verdict]);
    if (pool.length) go(pool.find((i) => i > chosen) ?? pool[0], true);
  }

  function at(event) {
    const box = canvas.getBoundingClientRect();
    const x = left + (event.clientX - box.left) / scale, y = top + (event.clientY - box.top) / scale;
    for (const b of [band(y - HEIGHT), band(y + HEIGHT)])
      for (const i of nodeBands.get(b) || [])
        if (Math.abs(nodes[i].x - x) < WIDTH / 2 && Math.abs(nodes[i].y - y) < HEIGHT / 2) return i;
    return -1;
  }

  function zoom(factor, x, y) {
    const now = Math.min(3, Math.max(0.002, scale * factor));
    left += x / scale - x / now;
    top += y / scale - y / now;
    scale = now;
    redraw();
  }

  const jump = (event) => {
    const share = (event.clientY - strip.getBoundingClientRect().top) / strip.clientHeight;
    top = share * (bounds.bottom + ROW) - canvas.clientHeight / scale / 2;
    redraw();
  };
  strip.addEventListener("pointerdown", (e) => { strip.setPointerCapture(e.pointerId); jump(e); });
  strip.addEventListener("pointermove", (e) => { if (e.buttons) jump(e); });

  let drag = null;
  canvas.addEventListener("pointerdown", (e) => {
    drag = { x: e.clientX, y: e.clientY, moved: false };
    canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointermove", (e) => {
    if (!drag) return;
    drag.moved = drag.moved || Math.hypot(e.clientX - drag.x, e.clientY - drag.y) > 4;
    if (!drag.moved) return;
    left -= (e.clientX - drag.x) / scale;
    top -= (e.clientY - drag.y) / scale;
    drag.x = e.clientX;
    drag.y = e.clientY;
    redraw();
  });
  canvas.addEventListener("pointerup", (e) => {
    if (drag && !drag.moved) go(at(e), false);
    drag = null;
  });
  canvas.addEventListener("wheel", (e) => {
    e.preventDefault();
    const box = canvas.getBoundingClientRect();
    zoom(Math.exp(-e.deltaY / 400), e.clientX - box.left, e.clientY - box.top);
  }, { passive: false });
  canvas.addEventListener("keydown", (e) => {
    const step = 80 / scale, middle = [canvas.clientWidth / 2, canvas.clientHeight / 2];
    if (e.key === "ArrowUp") top -= step;
    else if (e.key === "ArrowDown") top += step;
    else if (e.key === "ArrowLeft") left -= step;
    else if (e.key === "ArrowRight") left += step;
    else if (e.key === "+") zoom(1.25, ...middle);
    else if (e.key === "-") zoom(0.8, ...middle);
    else if (e.key === "n") next();
    else return;
    e.preventDefault();
    redraw();
  });
  document.getElementById("next").addEventListener("click", next);
  document.getElementById("fit").addEventListener("click", fit);
  document.getElementById("search").addEventListener("input", (e) => {
    const words = e.target.value.trim().toLowerCase();
    const has = (n) => (n.kind + " " + n.name + " " + n.place).toLowerCase().includes(words);
    found = new Set(words ? nodes.flatMap((n, i) => (has(n) ? [i] : [])) : []);
    hits.textContent = words ? `${found.size} found` : "";
    if (found.size) go([...found][0], true);
    redraw();
  });
  for (const box of document.querySelectorAll("[data-verdict]"))
    box.addEventListener("change", () => { shown[box.dataset.verdict] = box.checked; redraw(); });
  for (const link of document.querySelectorAll("[data-op]"))
    link.addEventListener("click", (e) => { e.preventDefault(); go(Number(link.dataset.op), true); });
  addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); redraw(); });
  readColors();
  start();
})();
