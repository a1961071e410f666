"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const get = id => document.getElementById(id);
const { looks, words, shown } = data;
const pairs = looks[0].cosines.length;
const slider = get("step-slider");

// viridis at five places: dark is low
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const every = looks.flatMap(look => look.cosines.flat());
const low = Math.min(...every), high = Math.max(...every);

function colorOf(cosine) {
  const at = (STOPS.length - 1) * (cosine - low) / Math.max(high - low, 1e-9);
  const stop = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[stop].map((value, i) => value + (at - stop) * (STOPS[stop + 1][i] - value));
}

function drawMatrix(cosines) {
  const context = get("matrix").getContext("2d");
  const picture = context.createImageData(pairs, pairs);
  cosines.flat().forEach((cosine, i) => picture.data.set([...colorOf(cosine), 255], 4 * i));
  context.putImageData(picture, 0, 0);
}

// a pair: its picture's circle, its caption's square, the line between them
function makePlane() {
  const reach = 1.08 * Math.max(...looks.flatMap(look => look.points.flat().map(Math.abs)), 1e-6);
  const svg = get("plane");
  svg.setAttribute("viewBox", "-1 -1 2 2");
  const groups = looks[0].cosines.map((_, pair) => {
    const group = document.createElementNS(svg.namespaceURI, "g");
    const fill = `hsl(${360 * pair / pairs} 70% 52%)`;
    group.innerHTML = `<line/><circle r=".022" fill="${fill}"/><rect width=".036" height=".036" fill="${fill}"/>`;
    group.addEventListener("mouseenter", () => tell(pair, pair));
    group.addEventListener("mouseleave", () => tell());
    svg.append(group);
    return group;
  });
  return points => groups.forEach((group, pair) => {
    const [[x1, y1], [x2, y2]] = [points[pair], points[pairs + pair]].map(p => p.map(v => v / reach));
    const [line, circle, square] = group.children;
    const set = (item, values) => Object.entries(values).forEach(([name, value]) => item.setAttribute(name, value));
    set(line, { x1, y1, x2, y2 });
    set(circle, { cx: x1, cy: y1 });
    set(square, { x: x2 - .018, y: y2 - .018 });
  });
}

function drawMaps(look) {
  document.querySelectorAll(".map").forEach((map, picture) => {
    map.querySelectorAll("rect").forEach((cell, token) => {
      const word = look.word[picture][token], cosine = look.cosine[picture][token];
      const there = shown[picture][token];
      cell.style.fill = get("legend").children[word].firstElementChild.style.background;
      cell.style.fillOpacity = Math.max(cosine, 0);
      cell.classList.toggle("wrong", there >= 0 && there !== word);
      cell.firstElementChild.textContent =
        `${words[word]} ${cosine.toFixed(2)}${there >= 0 ? `, shows ${words[there]}` : ""}`;
    });
  });
}

// what lies under the pointer: picture of a row, caption of a column
function tell(row, column) {
  const pair = get("pair"), pictures = get("pictures").content.children;
  document.querySelectorAll("#plane g").forEach((group, i) => group.classList.toggle("off", row !== undefined && i !== row));
  if (row === undefined) return pair.replaceChildren(get("hint").content.cloneNode(true));
  const words = document.createElement("div");
  words.textContent = `“${pictures[column].alt}”: cosine ${looks[slider.value].cosines[row][column].toFixed(2)}`;
  pair.replaceChildren(pictures[row].cloneNode(), words);
}

const drawPlane = makePlane();
const between = (a, b, t) => a.map((value, i) => Array.isArray(value) ? between(value, b[i], t) : value + t * (b[i] - value));
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
let drawn = null, moving = 0;

// Numbers and maps change at once; the matrix and the plane glide there. By a timer, which goes on
// where no frames are drawn.
function show(index, glide = true) {
  const look = looks[index], from = drawn;
  slider.value = index;
  get("diagonal-mean").textContent = look.diagonal.toFixed(3);
  get("rest-mean").textContent = look.rest.toFixed(3);
  get("retrieved").textContent = `${(100 * look.retrieved).toFixed(0)} %`;
  get("step-name").textContent = `${look.stage}, step ${look.step}: ${look.samples.toLocaleString("en")} samples`;
  document.querySelectorAll("line.now").forEach(line => { line.setAttribute("x1", look.x); line.setAttribute("x2", look.x); });
  document.querySelectorAll("#looks tr[data-look]").forEach((row, i) => row.classList.toggle("now", i === index));
  drawMaps(look);
  clearTimeout(moving);
  const began = performance.now();
  const draw = () => {
    const t = glide && from && !still ? Math.min((performance.now() - began) / 300, 1) : 1;
    drawn = t < 1 ? { cosines: between(from.cosines, look.cosines, t), points: between(from.points, look.points, t) } : look;
    drawMatrix(drawn.cosines);
    drawPlane(drawn.points);
    if (t < 1) moving = setTimeout(draw, 16);
  };
  draw();
}

function fromAddress() { // page.html#step=3 opens at the fourth look
  const wanted = /step=(\d+)/.exec(location.hash);
  show(wanted ? Math.min(Number(wanted[1]), looks.length - 1) : looks.length - 1, false);
}

let timer = 0;
function play() {
  if (timer) return stop();
  get("play").textContent = "Pause";
  if (Number(slider.value) === looks.length - 1) show(0, false);
  timer = setInterval(() => {
    show(Number(slider.value) + 1);
    if (Number(slider.value) === looks.length - 1) stop();
  }, 700);
}
function stop() {
  clearInterval(timer);
  timer = 0;
  get("play").textContent = "Play";
}

slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
get("play").addEventListener("click", play);
get("matrix").addEventListener("mousemove", event => {
  const box = event.target.getBoundingClientRect();
  const cell = (at, size) => Math.min(pairs - 1, Math.max(0, Math.floor(pairs * at / size)));
  tell(cell(event.clientY - box.top, box.height), cell(event.clientX - box.left, box.width));
});
get("matrix").addEventListener("mouseleave", () => tell());
addEventListener("hashchange", fromAddress);
get("matrix").width = get("matrix").height = pairs;
get("low").textContent = low.toFixed(2);
get("high").textContent = high.toFixed(2);
get("bar").style.background = `linear-gradient(90deg, ${STOPS.map(stop => `rgb(${stop})`)})`;
document.querySelectorAll("[hidden]").forEach(part => { part.hidden = false; });
fromAddress();
tell();
