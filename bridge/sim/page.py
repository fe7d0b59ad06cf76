"""Style and script of the HTML report."""

STYLE = """
:root { --ink: #1f2933; --soft: #66727f; --line: #e1e6eb; --good: #16805a; --bad: #c62828; }
body { font: 15px/1.45 Helvetica, Arial, sans-serif; color: var(--ink);
  max-width: 1420px; margin: 24px auto; padding: 0 20px; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 0; display: inline; }
h3 { font-size: 14px; margin: 14px 0 4px; color: var(--soft); text-transform: uppercase; letter-spacing: .04em; }
.big { font-size: 17px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.badge { display: inline-block; font-size: 12px; font-weight: bold; padding: 1px 8px; border-radius: 9px; color: #fff; }
.badge.good { background: var(--good); } .badge.bad { background: var(--bad); }
.about, .hint { color: var(--soft); }
table { border-collapse: collapse; font-size: 14px; }
th { text-align: left; font-weight: normal; color: var(--soft); }
td, th { padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
a { color: #2563a8; text-decoration: none; } a.at { cursor: pointer; white-space: nowrap; }
details.call { border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; margin: 18px 0; }
details.call > summary { cursor: pointer; }
.picture { overflow-x: auto; margin-top: 8px; cursor: crosshair; }
.picture svg { display: block; width: 100%; min-width: 900px; height: auto; }
.players { display: flex; flex-wrap: wrap; gap: 18px; align-items: center; margin: 6px 0; }
.players label { display: flex; align-items: center; gap: 8px; }
.players audio { height: 34px; width: 330px; }
.both { font-size: 15px; padding: 6px 14px; border: 1px solid var(--line); border-radius: 6px;
  background: #f7f9fb; cursor: pointer; }
.tables { display: flex; flex-wrap: wrap; gap: 8px 48px; align-items: flex-start; }
pre { font-size: 12px; overflow-x: auto; background: #f7f9fb; padding: 10px; max-height: 420px; }
"""

# Both tracks play together, a line in the picture shows where, and a click in the picture goes there.
SCRIPT = """
for (const call of document.querySelectorAll('details.call')) {
  const svg = call.querySelector('.picture svg'), caller = call.querySelector('audio.caller');
  if (!svg || !caller) continue;
  const agent = call.querySelector('audio.agent'), both = call.querySelector('.both');
  const rows = [...svg.querySelectorAll('g.row')].map(g => Object.fromEntries(
    Object.entries(g.dataset).map(([name, value]) => [name, Number(value)])));
  const hand = document.createElementNS('http://www.w3.org/2000/svg', 'line');
  hand.setAttribute('stroke', '#111'); hand.setAttribute('stroke-width', '1.5'); hand.style.pointerEvents = 'none';
  svg.append(hand);
  const show = ms => {
    const row = rows.find(r => ms >= r.begin && ms <= r.stop) || rows[rows.length - 1];
    const x = row.left + (ms - row.begin) / (row.stop - row.begin) * (row.right - row.left);
    const ends = { x1: x, x2: x, y1: row.top, y2: row.bottom };
    for (const [name, value] of Object.entries(ends)) hand.setAttribute(name, value);
  };
  const seek = ms => { caller.currentTime = agent.currentTime = ms / 1000; show(ms); };
  const playing = () => [caller, agent].find(track => !track.paused);
  const follow = () => {
    const track = playing();
    if (track) { show(track.currentTime * 1000); requestAnimationFrame(follow); }
  };
  for (const track of [caller, agent]) {
    track.addEventListener('play', () => requestAnimationFrame(follow));
    track.addEventListener('seeked', () => show(track.currentTime * 1000));
  }
  both.addEventListener('click', () => {
    if (playing()) { caller.pause(); agent.pause(); return; }
    agent.currentTime = caller.currentTime; caller.play(); agent.play();
  });
  svg.addEventListener('click', event => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const row = rows.find(r => point.y <= r.bottom + 30) || rows[rows.length - 1];
    const share = Math.min(1, Math.max(0, (point.x - row.left) / (row.right - row.left)));
    seek(row.begin + share * (row.stop - row.begin));
  });
  for (const at of call.querySelectorAll('a.at')) at.addEventListener('click', () => seek(Number(at.dataset.ms)));
}
"""
