// Pictures of 64 × 64 on canvases.

export const SIDE = 64;

export function canvas(name) {
  const made = document.createElement("canvas");
  made.width = made.height = SIDE;
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", name);
  return made;
}

// Draws one tile of a sheet: the column-th of the row-th row.
export function show(target, sheet, column, row = 0) {
  const from = [column * SIDE, row * SIDE, SIDE, SIDE];
  target.getContext("2d").drawImage(sheet, ...from, 0, 0, SIDE, SIDE);
}

export function figure(name, label, kind = "") {
  const made = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const picture = canvas(label);
  caption.textContent = name;
  if (kind) caption.className = `of-${kind}`;
  made.append(caption, picture);
  return { made, caption, picture };
}
