// The eye that looks at the scene, and the shapes it sees: drawn with a 2D canvas, so that no graphics driver is needed.
class Orbit {
  constructor() { Object.assign(this, { yaw: -0.6, pitch: 0.2, distance: 4, target: [0, 0.9, 0], centre: [0, 0], focal: 1 }); }

  look(width, height) {
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    this.right = [cy, 0, -sy];
    this.up = [-sy * sp, cp, -cy * sp];
    this.back = [sy * cp, sp, cy * cp];
    this.centre = [width / 2, height / 2];
    this.focal = 2.3 * Math.min(width * 1.25, height);
  }

  /** A point in metres -> [x, y in pixels, pixels per metre there]; the last is 0 or less behind the eye. */
  project(point) {
    const d = [point[0] - this.target[0], point[1] - this.target[1], point[2] - this.target[2]];
    const scale = this.focal / Math.max(this.distance - dot(d, this.back), 0.05);
    return [this.centre[0] + scale * dot(d, this.right), this.centre[1] - scale * dot(d, this.up), scale];
  }
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const plus = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];

/** [r, g, b] of a colour in the style sheet, made lighter (amount > 0) or darker. */
function tinted([r, g, b], amount, alpha = 1) {
  const end = amount > 0 ? 255 : 0;
  const mix = (value) => Math.round(value + Math.abs(amount) * (end - value));
  return `rgba(${mix(r)}, ${mix(g)}, ${mix(b)}, ${alpha})`;
}

function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const rgb = (name) => [1, 3, 5].map((i) => parseInt(read(name).slice(i, i + 2), 16));
  const names = ["left", "right", "middle", "truth", "deviation", "error", "stage", "glow", "grid", "ink", "quiet", "panel",
    "line", "accent"];
  return { ...Object.fromEntries(names.map((name) => [name, rgb(name)])), shade: read("shade"),
    dark: matchMedia("(prefers-color-scheme: dark)").matches };
}

/** A limb between two projected points, round in cross-section, with light from above and from the left. */
function drawTube(context, from, to, radii, colour, palette, alpha = 1) {
  const [r1, r2] = [Math.max(radii[0] * from[2], 1), Math.max(radii[1] * to[2], 1)];
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const length = Math.hypot(dx, dy) || 1e-6;
  let [nx, ny] = [-dy / length, dx / length];
  const angle = Math.atan2(ny, nx);
  context.beginPath();
  context.arc(from[0], from[1], r1, angle, angle + Math.PI);
  context.arc(to[0], to[1], r2, angle + Math.PI, angle + 2 * Math.PI);
  context.closePath();
  if (alpha === 1) {  // a seam in the colour of the background shows which of two crossing limbs is in front
    context.lineWidth = 2.4;
    context.strokeStyle = tinted(palette.stage, 0, 0.9);
    context.stroke();
  }
  if (nx * -0.5 + ny * -0.85 < 0) [nx, ny] = [-nx, -ny];
  const [mx, my, r] = [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2, Math.max(r1, r2)];
  const light = context.createLinearGradient(mx + nx * r, my + ny * r, mx - nx * r, my - ny * r);
  light.addColorStop(0, tinted(colour, 0.08, alpha));
  light.addColorStop(0.3, tinted(colour, 0.38, alpha));
  light.addColorStop(0.62, tinted(colour, 0, alpha));
  light.addColorStop(1, tinted(colour, -0.38, alpha));
  context.fillStyle = light;
  context.fill();
}

function drawBall(context, [x, y, scale], radius, colour, palette, alpha = 1) {
  const r = Math.max(radius * scale, 1.4);
  const light = context.createRadialGradient(x - 0.35 * r, y - 0.4 * r, 0.05 * r, x, y, r);
  light.addColorStop(0, tinted(colour, 0.6, alpha));
  light.addColorStop(0.55, tinted(colour, 0.06, alpha));
  light.addColorStop(1, tinted(colour, -0.35, alpha));
  context.beginPath();
  context.arc(x, y, r, 0, 2 * Math.PI);
  context.fillStyle = light;
  context.fill();
}

/**
 * The outline of an ellipsoid: [half-axis, half-axis in metres, angle of the first].
 * If V projects the ellipsoid x' C^-1 x = 1 to the picture, its outline is y' (V C V')^-1 y = 1. `axes` holds its axes
 * as columns, `half` its half-axes.
 */
function outline(orbit, axes, half) {
  let [xx, xy, yy] = [0, 0, 0];
  for (let i = 0; i < 3; i++) {
    const axis = [axes[i], axes[3 + i], axes[6 + i]];
    const [x, y] = [half[i] * dot(axis, orbit.right), -half[i] * dot(axis, orbit.up)];
    xx += x * x; xy += x * y; yy += y * y;
  }
  const [middle, apart] = [(xx + yy) / 2, Math.hypot((xx - yy) / 2, xy)];
  return [Math.sqrt(middle + apart), Math.sqrt(Math.max(middle - apart, 0)), 0.5 * Math.atan2(2 * xy, xx - yy)];
}

/** A bubble: clear in the middle, coloured at the rim, with a soft light on its upper left. */
function drawBubble(context, [x, y, scale], [long, short, angle], colour, palette, strength = 1) {
  const [a, b] = [long * scale, Math.max(short * scale, 0.5)];
  if (!(a > 1)) return;
  context.save();
  context.translate(x, y);
  context.rotate(angle);
  context.scale(a, b);
  const body = context.createRadialGradient(0, 0, 0, 0, 0, 1);
  const base = (palette.dark ? 0.16 : 0.11) * strength;
  body.addColorStop(0, tinted(colour, 0.25, base));
  body.addColorStop(0.65, tinted(colour, 0.12, 1.6 * base));
  body.addColorStop(1, tinted(colour, 0, 3 * base));
  context.beginPath();
  context.arc(0, 0, 1, 0, 2 * Math.PI);
  context.fillStyle = body;
  context.fill();
  const [lx, ly] = [-0.45 * Math.cos(angle) - 0.55 * Math.sin(angle), 0.45 * Math.sin(angle) - 0.55 * Math.cos(angle)];
  const gleam = context.createRadialGradient(lx, ly, 0, lx, ly, 0.5);
  gleam.addColorStop(0, `rgba(255, 255, 255, ${(palette.dark ? 0.2 : 0.5) * strength})`);
  gleam.addColorStop(1, "rgba(255, 255, 255, 0)");
  context.fillStyle = gleam;
  context.fill();
  context.restore();
  context.beginPath();
  context.ellipse(x, y, a, b, angle, 0, 2 * Math.PI);
  context.lineWidth = 1;
  context.strokeStyle = tinted(colour, palette.dark ? 0.15 : 0, 0.55 * strength);
  context.stroke();
}

/** A grid on the floor that fades out, under a soft pool of light. `cell` and `radius` in metres. */
function drawFloor(context, orbit, palette, middle, cell, radius) {
  const [x, y, scale] = orbit.project([middle[0], 0, middle[1]]);
  const [rx, flat] = [radius * scale, Math.abs(Math.sin(orbit.pitch))];
  if (flat > 0.01) {
    context.save();
    context.translate(x, y);
    context.scale(1, flat);
    const pool = context.createRadialGradient(0, 0, 0, 0, 0, rx);
    pool.addColorStop(0, tinted(palette.glow, 0, 1));
    pool.addColorStop(1, tinted(palette.glow, 0, 0));
    context.fillStyle = pool;
    context.beginPath();
    context.arc(0, 0, rx, 0, 2 * Math.PI);
    context.fill();
    context.restore();
  }
  const shades = Array.from({ length: 6 }, () => new Path2D());
  const count = Math.ceil(radius / cell);
  const [x0, z0] = [Math.round(middle[0] / cell), Math.round(middle[1] / cell)];
  const add = (from, to) => {
    const away = Math.hypot((from[0] + to[0]) / 2 - middle[0], (from[2] + to[2]) / 2 - middle[1]) / radius;
    if (away >= 1) return;
    const [a, b] = [orbit.project(from), orbit.project(to)];
    if (a[2] > 40 * orbit.focal || b[2] > 40 * orbit.focal) return;
    const path = shades[Math.floor(away * shades.length)];
    path.moveTo(a[0], a[1]);
    path.lineTo(b[0], b[1]);
  };
  for (let i = -count; i <= count; i++) for (let j = -count; j <= count; j++) {
    const [gx, gz] = [(x0 + i) * cell, (z0 + j) * cell];
    add([gx, 0, gz], [gx + cell, 0, gz]);
    add([gx, 0, gz], [gx, 0, gz + cell]);
  }
  context.lineWidth = 1;
  shades.forEach((path, i) => {
    context.strokeStyle = tinted(palette.grid, 0, 0.62 * (1 - i / shades.length) ** 1.4);
    context.stroke(path);
  });
}
