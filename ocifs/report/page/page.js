"use strict";
// The treemap: squarified (Bruls, Huizing, van Wijk 2000), directories in directories as far as there is room.
// What is from the image is written as text only, never as HTML.
(() => {
  const { tree, colours } = JSON.parse(document.getElementById("data").textContent);
  const { names, parents, sizes, layers } = tree;
  const map = document.getElementById("map");
  const path = document.getElementById("path");
  const told = document.getElementById("told");
  const HEAD = 16, LEAST = 3, READABLE = 34;

  const inside = names.map(() => []);
  parents.forEach((parent, number) => { if (parent >= 0) inside[parent].push(number); });
  let top = 0;

  function human(size) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = 0;
    while (size >= 999.5 && unit < units.length - 1) { size /= 1024; unit += 1; }
    return (unit && size < 99.5 ? Number(size.toPrecision(3)) : Math.round(size)) + " " + units[unit];
  }

  function way(number) {
    const numbers = [];
    for (; number >= 0; number = parents[number]) numbers.unshift(number);
    return numbers;
  }

  // Items of a directory, the largest first: those listed, and what is left.
  function items(number) {
    const listed = inside[number].filter((each) => sizes[each] > 0);
    const left = sizes[number] - listed.reduce((sum, each) => sum + sizes[each], 0);
    const all = listed.map((each) => ({ number: each, size: sizes[each] }));
    if (left > 0 && listed.length) all.push({ number, size: left, rest: true });
    return all.sort((one, other) => other.size - one.size);
  }

  function worst(row, total, side, scale) {
    const length = total * scale / side;
    return Math.max(...[row[0], row[row.length - 1]].map((item) => {
      const other = item.size * scale / length;
      return Math.max(length / other, other / length);
    }));
  }

  // Call place(item, x, y, width, height) for each, so that areas are as sizes.
  function squarify(all, x, y, width, height, place) {
    let left = all.reduce((sum, item) => sum + item.size, 0);
    let start = 0;
    while (start < all.length && width > 0 && height > 0) {
      const scale = width * height / left, side = Math.min(width, height);
      let end = start + 1, total = all[start].size;
      let ratio = worst([all[start]], total, side, scale);
      while (end < all.length) {
        const next = worst([all[start], all[end]], total + all[end].size, side, scale);
        if (next > ratio) break;
        ratio = next; total += all[end].size; end += 1;
      }
      const depth = total * scale / side;
      let offset = 0;
      for (; start < end; start += 1) {
        const length = all[start].size * scale / depth;
        if (width >= height) place(all[start], x, y + offset, depth, length);
        else place(all[start], x + offset, y, length, depth);
        offset += length;
      }
      if (width >= height) { x += depth; width -= depth; } else { y += depth; height -= depth; }
      left -= total;
    }
  }

  function box(item, x, y, width, height) {
    const element = document.createElement("div");
    Object.assign(element.style, { left: `${x}px`, top: `${y}px`, width: `${width}px`, height: `${height}px` });
    element.dataset.number = item.number;
    if (item.rest) element.dataset.rest = "";
    map.append(element);
    return element;
  }

  function draw(item, x, y, width, height) {
    if (width < LEAST || height < LEAST) return;
    const number = item.number;
    const element = box(item, x, y, width, height);
    const children = item.rest ? [] : inside[number];
    if (children.length && width > READABLE && height > READABLE) {
      element.className = "directory";
      element.textContent = names[number];
      squarify(items(number), x + 2, y + HEAD, width - 4, height - HEAD - 2, draw);
      return;
    }
    element.className = `c${layers[number] % colours}`;
    if (children.length) element.classList.add("closed");
    if (item.rest) element.classList.add("rest");
    if (width > READABLE && height > HEAD) element.textContent = item.rest ? "smaller ones" : names[number];
  }

  function show(number) {
    top = number;
    map.replaceChildren();
    path.replaceChildren(...way(number).map((each) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = names[each] || "/";
      button.addEventListener("click", () => show(each));
      return button;
    }));
    squarify(items(number), 0, 0, map.clientWidth, map.clientHeight, draw);
    for (const element of map.querySelectorAll(".directory, .closed")) {
      element.tabIndex = 0;
      element.setAttribute("role", "button");
    }
    tell(number, false);
  }

  function tell(number, rest) {
    const name = way(number).map((each) => names[each]).join("") || "/";
    const size = rest ? items(number).find((item) => item.rest).size : sizes[number];
    told.textContent = `${rest ? "smaller ones in " : ""}${name}: ${human(size)}, most of it from layer ${layers[number]}`;
  }

  map.addEventListener("pointerover", (event) => {
    const { number, rest } = event.target.dataset;
    if (number !== undefined) tell(Number(number), rest !== undefined);
  });
  function into(event) {
    const { number, rest } = event.target.dataset;
    if (number === undefined) return;
    tell(Number(number), rest !== undefined);
    if (rest === undefined && inside[number].length) show(Number(number));
  }
  map.addEventListener("click", into);
  map.addEventListener("keydown", (event) => { if (event.key === "Enter") into(event); });
  addEventListener("keydown", (event) => { if (event.key === "Escape" && top) show(parents[top]); });
  let width = 0;
  new ResizeObserver(() => {
    if (map.clientWidth !== width) { width = map.clientWidth; show(top); }
  }).observe(map);
})();
