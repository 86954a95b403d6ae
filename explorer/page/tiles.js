// Square pictures on canvases, each as large as the models see it.

export function canvas(name, side) {
  const made = document.createElement("canvas");
  made.width = made.height = side;
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", name);
  return made;
}

// Draws one tile of a sheet: the column-th of the row-th row.
export function show(target, sheet, column, row = 0) {
  const { width: side } = target;
  const from = [column * side, row * side, side, side];
  target.getContext("2d").drawImage(sheet, ...from, 0, 0, side, side);
}

export function figure(name, label, side, kind = "") {
  const made = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const picture = canvas(label, side);
  caption.textContent = name;
  if (kind) caption.className = `of-${kind}`;
  made.append(caption, picture);
  return { made, caption, picture };
}
