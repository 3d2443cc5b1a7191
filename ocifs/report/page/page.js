"use strict";
// The map, its search, and the filter by layer; without this script, the page has everything else.
// The treemap is squarified (Bruls, Huizing, van Wijk 2000), with directories in directories as far as there is room.
// What is from the image is written as text only, never as HTML.
(() => {
  const { tree, colours } = JSON.parse(document.getElementById("data").textContent);
  const { names, parents, sizes, layers, left_out: leftOut } = tree;
  const map = document.getElementById("map");
  const path = document.getElementById("path");
  const told = document.getElementById("told");
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const matches = document.getElementById("matches");
  const HEAD = 16, LEAST = 2, SMALL = 30, READABLE = 34, LISTED = 30, LONGEST = 1000;

  const inside = names.map(() => []);
  parents.forEach((parent, number) => { if (parent >= 0) inside[parent].push(number); });
  // Of each file; only the end of a path that is longer than paths are.
  const paths = [];
  names.forEach((name, number) => paths.push(((parents[number] < 0 ? "" : paths[parents[number]]) + name).slice(-LONGEST)));
  let top = 0;
  let only = null;  // the layer to see, or null
  let hits = null;  // the files that the search found, or null
  let above = new Set();  // the directories above these

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
    if (leftOut && left > 0 && listed.length) all.push({ number, size: left, rest: [] });
    return all.sort((one, other) => other.size - one.size);
  }

  // The items to draw in an area in square pixels: those that would be specks share one cell.
  function visible(number, area) {
    const all = items(number);
    const scale = area / all.reduce((sum, item) => sum + item.size, 0);
    const large = all.filter((item) => !item.rest && item.size * scale >= SMALL);
    const small = all.filter((item) => item.rest || item.size * scale < SMALL);
    if (!small.length) return all;
    const size = small.reduce((sum, item) => sum + item.size, 0);
    const rest = small.filter((item) => !item.rest).map((item) => item.number);
    return [...large, { number, size, rest }].sort((one, other) => other.size - one.size);
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
    if (item.rest) element.dataset.rest = item.size;
    map.append(element);
    return element;
  }

  // `inHit`: whether it is in a directory that the search found.
  function draw(item, x, y, width, height, inHit) {
    if (width < LEAST || height < LEAST) return;
    const number = item.number;
    const element = box(item, x, y, width, height);
    const children = item.rest ? [] : inside[number];
    const hit = hits !== null && (item.rest || [number]).some((each) => hits.has(each));
    if (hit) element.classList.add("hit");
    if (children.length && width > READABLE && height > READABLE) {
      element.classList.add("directory");
      element.textContent = names[number];
      const place = (...at) => draw(...at, inHit || hit);
      squarify(visible(number, (width - 4) * (height - HEAD - 2)), x + 2, y + HEAD, width - 4, height - HEAD - 2, place);
      return;
    }
    element.classList.add(`c${layers[number] % colours}`);
    if (children.length) element.classList.add("closed");
    if (item.rest) element.classList.add("rest");
    const lit = hits === null || hit || inHit || (item.rest || [number]).some((each) => hits.has(each) || above.has(each));
    if (!lit || (only !== null && layers[number] !== only)) element.classList.add("dim");
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
    const inHit = hits !== null && way(number).some((each) => hits.has(each));
    squarify(visible(number, map.clientWidth * map.clientHeight), 0, 0, map.clientWidth, map.clientHeight, (...at) => draw(...at, inHit));
    for (const element of map.querySelectorAll(".directory, .closed")) {
      element.tabIndex = 0;
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", `${names[element.dataset.number]} ${human(sizes[element.dataset.number])}`);
    }
    tell(number);
  }

  // `rest`: the bytes of the smaller ones in the directory, if the cell is theirs.
  function tell(number, rest) {
    const size = rest ? Number(rest) : sizes[number];
    told.textContent = `${rest ? "smaller ones in " : ""}${paths[number]}: ${human(size)}, most of it from layer ${layers[number]}`;
  }

  map.addEventListener("pointerover", (event) => {
    const { number, rest } = event.target.dataset;
    if (number !== undefined) tell(Number(number), rest);
  });
  function into(event) {
    const { number, rest } = event.target.dataset;
    if (number === undefined) return;
    tell(Number(number), rest);
    if (inside[number].length && (rest === undefined || Number(number) !== top)) show(Number(number));
  }
  map.addEventListener("click", into);
  map.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    into(event);
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && top && event.target !== search) show(parents[top]);
  });

  // Mark files in the map; null: none.
  function mark(numbers) {
    hits = numbers && new Set(numbers);
    above = new Set();
    for (const number of numbers || []) {
      for (let each = parents[number]; each >= 0 && !above.has(each); each = parents[each]) above.add(each);
    }
  }

  // Show a file in its directory, or a directory.
  function reveal(number) {
    show(inside[number].length ? number : Math.max(0, parents[number]));
    tell(number);
  }

  function find() {
    const text = search.value.trim().toLowerCase();
    const numbers = text ? [...names.keys()].filter((each) => names[each].toLowerCase().includes(text)
      || (text.includes("/") && paths[each].toLowerCase().includes(text))) : [];
    mark(text ? numbers : null);
    found.hidden = !numbers.length;
    matches.textContent = !text ? "" : numbers.length > LISTED
      ? `${numbers.length.toLocaleString("en")} found; the largest ${LISTED}:` : `${numbers.length} found`;
    found.replaceChildren(...numbers.slice(0, LISTED).map((each) => {
      const item = document.createElement("li");
      const size = document.createElement("span");
      size.className = "figure";
      size.textContent = human(sizes[each]);
      const link = document.createElement("a");
      link.href = "#map";
      link.className = "path";
      link.dataset.number = each;
      link.textContent = paths[each];
      item.append(size, link);
      return item;
    }));
    show(top);
    return numbers;
  }
  search.addEventListener("input", find);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { search.value = ""; find(); }
    if (event.key === "Enter") { const [first] = find(); if (first !== undefined) reveal(first); }
  });
  found.addEventListener("click", (event) => {
    const { number } = event.target.dataset;
    if (number !== undefined) reveal(Number(number));
  });

  // Follow the link of a row to its file in the map, or to the nearest directory above it that the map has.
  function follow(text) {
    let number = 0, whole = true;
    for (const part of text.split("/").filter(Boolean)) {
      const next = inside[number].find((each) => names[each] === part || names[each] === `${part}/`);
      if (next === undefined) { whole = false; break; }
      number = next;
    }
    search.value = "";
    find();
    mark(whole ? [number] : null);
    reveal(number);
    if (!whole) told.textContent = `${text} is not in the map: it was removed or is too small. This is ${paths[number]}`;
  }

  function sized(element) {
    const numbers = element.dataset.layers.split(" ").map(Number);
    const parts = element.dataset.sizes.split(" ").map(Number);
    return only === null ? Math.max(...parts) : parts[numbers.indexOf(only)];
  }

  function filter(layer) {
    only = layer;
    document.getElementById("filter").hidden = layer === null;
    document.getElementById("filter-layer").textContent = layer;
    for (const element of document.querySelectorAll("[data-layers]")) {
      element.hidden = layer !== null && !element.dataset.layers.split(" ").includes(String(layer));
      if (element.dataset.sizes && !element.hidden) element.querySelector(".amount").textContent = human(sized(element));
    }
    for (const element of document.querySelectorAll("[data-layer-item]")) {
      element.classList.toggle("dim", layer !== null && element.dataset.layerItem !== String(layer));
    }
    for (const element of document.querySelectorAll("button.number")) {
      element.setAttribute("aria-pressed", element.dataset.layer === String(layer));
    }
    for (const element of document.querySelectorAll(".more")) {
      const rows = [...element.querySelectorAll("[data-sizes], :scope > table tr")].filter((each) => !each.hidden);
      const plural = element.dataset.noun === "file" ? "files" : "directories";
      element.querySelector("summary").textContent = `${rows.length} more ${rows.length === 1 ? element.dataset.noun : plural}`;
      element.hidden = !rows.length;
    }
    for (const element of document.querySelectorAll(".group table")) {
      element.hidden = !element.querySelector("tbody tr:not([hidden])");
    }
    for (const element of document.querySelectorAll(".none")) {
      element.hidden = Boolean(element.parentElement.querySelector("[data-sizes]:not([hidden])"));
    }
    show(top);
  }

  for (const element of document.querySelectorAll("[data-layer]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = element.className;
    button.title = `Show only layer ${element.dataset.layer}`;
    button.dataset.layer = element.dataset.layer;
    button.setAttribute("aria-pressed", "false");
    button.append(...element.childNodes);
    element.replaceWith(button);
  }
  document.addEventListener("click", (event) => {
    const badge = event.target.closest("button.number");
    const link = event.target.closest("a[data-path]");
    if (link) follow(link.dataset.path);
    if (!badge) return;
    event.preventDefault();  // one in a summary does not open it
    const layer = Number(badge.dataset.layer);
    filter(layer === only ? null : layer);
  });
  document.getElementById("filter-off").addEventListener("click", () => filter(null));
  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;
  let width = 0;
  new ResizeObserver(() => {
    if (map.clientWidth !== width) { width = map.clientWidth; show(top); }
  }).observe(map);
})();
