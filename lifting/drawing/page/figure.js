// A person, and everything else in the scene.
const RADII = { 1: [34, 34], 2: [36, 27], 3: [27, 19], 7: [34, 34], 8: [34, 32], 9: [26, 24], 10: [50, 60], 11: [30, 26],
  12: [26, 20], 13: [20, 15] };  // millimetres at both ends of the bone that ends in this joint; right as left
for (const [left, right] of [[1, 4], [2, 5], [3, 6], [11, 14], [12, 15], [13, 16]]) RADII[right] = RADII[left];

function placed(name, frame, person) {
  const [joints, place] = [at(name, frame, person), at("place", frame, person)];
  return Array.from({ length: JOINTS }, (_, j) => [0, 1, 2].map((a) => joints[3 * j + a] + place[a]));
}

function drawShadow(context, orbit, joints, palette) {
  if (orbit.pitch <= 0) return;
  const path = new Path2D();
  for (let j = 1; j < JOINTS; j++) {
    const [a, b] = [data.parents[j], j].map((k) => orbit.project([joints[k][0], 0, joints[k][2]]));
    path.moveTo(a[0], a[1]);
    path.lineTo(b[0], b[1]);
  }
  const scale = orbit.project([joints[0][0], 0, joints[0][2]])[2];
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = `rgba(${palette.shade}, ${palette.dark ? 0.2 : 0.035})`;
  for (const width of [0.13, 0.105, 0.08, 0.058, 0.038]) {
    context.lineWidth = width * scale;
    context.stroke(path);
  }
}

function drawSkeleton(context, orbit, joints, palette, { ghost = false, seen = null, hover = -1 } = {}) {
  const points = joints.map((joint) => orbit.project(joint));
  const colour = (j) => palette[ghost ? "truth" : data.sides[j]];
  const alpha = ghost ? 0.5 : 1;
  const parts = [];
  for (let j = 0; j < JOINTS; j++) {
    const parent = data.parents[j];
    if (parent >= 0 && RADII[j]) parts.push([(points[j][2] + points[parent][2]) / 2, j, parent]);
  }
  parts.sort((a, b) => a[0] - b[0]);  // far ones first: pixels per metre grow towards the eye
  for (const [, j, parent] of parts) {
    const radii = RADII[j].map((r) => (ghost ? 0.55 : 0.62) * r / 1000);
    drawTube(context, points[parent], points[j], radii, colour(j), palette, alpha);
    if (!ghost) {
      drawBall(context, points[j], 1.12 * radii[1], colour(j), palette);
      if (seen && !seen[j]) drawUnseen(context, points[j], 1.5 * radii[1], palette, colour(j));
    }
    if (j === hover) {
      context.beginPath();
      context.arc(points[j][0], points[j][1], Math.max(8, 0.035 * points[j][2]), 0, 2 * Math.PI);
      context.lineWidth = 2;
      context.strokeStyle = tinted(palette.ink, 0, 0.8);
      context.stroke();
    }
  }
  return points;
}

/** A joint that the picture does not show: hollow. */
function drawUnseen(context, [x, y, scale], radius, palette, colour) {
  context.beginPath();
  context.arc(x, y, Math.max(radius * scale, 3.5), 0, 2 * Math.PI);
  context.fillStyle = tinted(palette.stage, 0, 1);
  context.fill();
  context.lineWidth = 2;
  context.strokeStyle = tinted(colour, 0, 1);
  context.stroke();
}

function drawPerson(context, orbit, palette, frame, person, { reach, hover }) {
  const joints = placed("joints", frame, person);
  if (arrays.placeDeviation) drawPlace(context, orbit, palette, frame, person, reach);
  const truth = arrays.truth && Number.isFinite(at("truth", frame, person)[0]) ? placed("truth", frame, person) : null;
  if (truth) drawSkeleton(context, orbit, truth, palette, { ghost: true });
  const points = drawSkeleton(context, orbit, joints, palette, { seen: isSeen(frame, person), hover });
  if (truth) {
    context.lineWidth = 1.6;
    context.strokeStyle = tinted(palette.error, 0, 0.85);
    context.beginPath();
    truth.forEach((joint, j) => {
      const end = orbit.project(joint);
      context.moveTo(points[j][0], points[j][1]);
      context.lineTo(end[0], end[1]);
    });
    context.stroke();
  }
  if (reach && arrays.deviation) {
    const [deviation, axes] = [at("deviation", frame, person), at("axes", frame, person)];
    const order = [...points.keys()].sort((a, b) => points[a][2] - points[b][2]);
    for (const j of order) {
      const half = [0, 1, 2].map((a) => reach * deviation[3 * j + a]);
      const strength = hover < 0 ? 1 : j === hover ? 1.9 : 0.45;
      if (half[0] > 0) drawBubble(context, points[j], outline(orbit, axes, half), palette[data.sides[j]], palette, strength);
    }
  }
  return points;
}

/** How well the place itself is known: an outline about the pelvis, longest along the line of sight. */
function drawPlace(context, orbit, palette, frame, person, reach) {
  const deviation = at("placeDeviation", frame, person);
  if (!reach || !Number.isFinite(deviation[0])) return;
  const place = at("place", frame, person);
  const [long, short, angle] = outline(orbit, data.cameraAxes.flat(), [...deviation].map((d) => d * reach));
  const [x, y, scale] = orbit.project([place[0], 0, place[2]]);
  context.beginPath();
  context.ellipse(x, y, Math.max(long * scale, 1), Math.max(short * scale, 1), angle, 0, 2 * Math.PI);
  context.setLineDash([5, 5]);
  context.lineWidth = 1.3;
  context.strokeStyle = tinted(palette.quiet, 0, 0.9);
  context.stroke();
  context.setLineDash([]);
}

function drawName(context, points, name, palette) {
  const top = points.reduce((best, point) => (point[1] < best[1] ? point : best));
  context.font = "600 12px system-ui, sans-serif";
  context.textAlign = "center";
  const [x, y, width] = [points[8][0], top[1] - 24, context.measureText(name).width + 14];
  context.fillStyle = tinted(palette.panel, 0, 0.85);
  context.beginPath();
  context.roundRect(x - width / 2, y - 13, width, 19, 9.5);
  context.fill();
  context.fillStyle = tinted(palette.ink, 0, 1);
  context.fillText(name, x, y + 1);
}

/** The camera that took the picture: where it stands and what it looks at. */
function drawCamera(context, orbit, palette) {
  const axis = (i) => [0, 1, 2].map((a) => data.cameraAxes[a][i]);
  const corner = (x, y) => [0, 1, 2].map((a) => data.camera[a] + 0.12 * x * axis(0)[a] + 0.09 * y * axis(1)[a] + 0.2 * axis(2)[a]);
  const eye = orbit.project(data.camera);
  if (eye[2] > 20 * orbit.focal) return;
  const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([x, y]) => orbit.project(corner(x, y)));
  context.beginPath();
  corners.forEach((end, i) => {
    context.moveTo(eye[0], eye[1]);
    context.lineTo(end[0], end[1]);
    context.lineTo(corners[(i + 1) % 4][0], corners[(i + 1) % 4][1]);
  });
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.strokeStyle = tinted(palette.quiet, 0, 0.9);
  context.stroke();
}

/** Three small arrows: the axes of the numbers in the file. */
function drawAxes(context, orbit, palette, axes, [x, y]) {
  const names = ["x", "y", "z"];
  const arrows = names.map((name, i) => {
    const axis = [axes[i], axes[3 + i], axes[6 + i]];
    return [name, 30 * dot(axis, orbit.right), -30 * dot(axis, orbit.up), dot(axis, orbit.back)];
  });
  context.lineWidth = 2;
  context.lineCap = "round";
  context.font = "600 12px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const [name, dx, dy] of arrows.sort((a, b) => a[3] - b[3])) {
    context.strokeStyle = context.fillStyle = tinted(palette.quiet, 0, 1);
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + dx, y + dy);
    context.stroke();
    const length = Math.hypot(dx, dy);
    const away = length > 8 ? (length + 10) / length : 0;
    if (away) context.fillText(name, x + dx * away, y + dy * away);
    else context.fillText(name, x + 10, y + 10);
  }
  context.textBaseline = "alphabetic";
}
