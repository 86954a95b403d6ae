// What is seen, as one picture to keep: drawn here, so that it is what was on the screen.

const LEAST = 192; // pixels of a tile's side: room for what is written below it
const GAP = 12;
const EDGE = 24;
const FONT = "14px system-ui, sans-serif";

function place(context, text, x, y, bold = false) {
  context.font = bold ? `600 ${FONT}` : FONT;
  context.fillText(text, x, y);
}

// rows: [{title, tiles: [{name, canvas}]}]; notes: lines below.
export function compose(title, rows, notes) {
  const { width } = rows[0].tiles[0].canvas;
  const side = width * Math.ceil(LEAST / width); // a whole number of times, so that pixels stay
  const widest = Math.max(...rows.map(({ tiles }) => tiles.length));
  const made = document.createElement("canvas");
  made.width = 2 * EDGE + widest * (side + GAP) - GAP;
  made.height = 2 * EDGE + 28 + rows.length * (side + 60) + notes.length * 20;
  const context = made.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, made.width, made.height);
  context.fillStyle = "#1c1f23";
  context.textBaseline = "alphabetic";
  context.imageSmoothingEnabled = false;
  place(context, title, EDGE, EDGE + 14, true);
  let y = EDGE + 28;
  for (const { title: head, tiles } of rows) {
    place(context, head, EDGE, y + 20);
    tiles.forEach(({ name, canvas }, column) => {
      const x = EDGE + column * (side + GAP);
      context.drawImage(canvas, x, y + 28, side, side);
      place(context, name, x, y + 28 + side + 18);
    });
    y += side + 60;
  }
  notes.forEach((note, index) => place(context, note, EDGE, y + 14 + 20 * index));
  return made;
}

export async function keep(canvas, name) {
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
