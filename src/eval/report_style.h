// Internal to the report: the style sheet of the page. System fonts only; colours are variables, so
// that dark mode and paper each change them in one place; below 700 px tables become cards.
#pragma once

namespace hone {

inline constexpr char kReportStyle[] = R"css(
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --card: #ffffff; --ink: #1d2226; --soft: #59626b; --hair: #e3e0da;
  --accent: #0d6b66; --accent-soft: #bfdcd8; --second: #b4561f; --rail: #eeebe5;
  --good: #17693f; --bad: #a8321e; --band: #efece4;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14181b; --card: #1b2024; --ink: #e6e9eb; --soft: #9fa9b1; --hair: #2f363b;
    --accent: #55c2b4; --accent-soft: #2d5b57; --second: #e59a63; --rail: #272d32;
    --good: #6ecb95; --bad: #f08a75; --band: #22282c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: break-word;
}
main { max-width: 1040px; margin: 0 auto; padding: 40px 24px 64px; }
h1, h2, h3, p, figure, ul, dl, dd, pre { margin: 0; padding: 0; }
h1 { font-size: 1.1rem; font-weight: 600; line-height: 1.3; }
h2 { font-size: 1.35rem; font-weight: 650; line-height: 1.25; letter-spacing: -0.01em; }
h3 { font-size: 1rem; font-weight: 600; }
section { margin-top: 56px; }
section > p, section > figure, section > .panels, section > .columns { margin-top: 8px; }
section > .panels { margin-top: 18px; }
p { max-width: 68ch; }
ul { list-style: none; }
small, .soft { color: var(--soft); }
small { font-size: 0.82rem; font-weight: 400; }
.eyebrow { max-width: none; color: var(--soft); font-size: 0.875rem; }
.headline {
  margin-top: 14px; max-width: 26em; font-size: clamp(1.55rem, 1rem + 2.4vw, 2.35rem);
  font-weight: 680; line-height: 1.18; letter-spacing: -0.02em; text-wrap: balance;
}
.verdict { margin-top: 14px; font-size: 1.05rem; }
.nb { white-space: nowrap; }

.tiles { display: grid; grid-template-columns: repeat(6, 1fr); gap: 12px; margin-top: 30px; }
.tile { background: var(--card); border: 1px solid var(--hair); border-radius: 10px; padding: 13px 14px; }
.tile dt { color: var(--soft); font-size: 0.82rem; }
.tile .now { font-size: 1.3rem; font-weight: 650; line-height: 1.35; letter-spacing: -0.01em; white-space: nowrap; }
.tile .was { color: var(--soft); font-size: 0.82rem; line-height: 1.4; }
.tile .good { color: var(--good); } .tile .bad { color: var(--bad); }

table { width: 100%; border-collapse: collapse; font-size: 0.875rem; line-height: 1.35; margin-top: 16px; }
th { font-weight: 600; text-align: left; }
tbody th { overflow-wrap: anywhere; min-width: 9rem; }
thead th { color: var(--soft); font-size: 0.8rem; vertical-align: bottom; padding: 0 8px 7px; border-bottom: 1.5px solid var(--soft); }
thead small { display: block; font-size: 0.75rem; white-space: nowrap; }
tbody th, td { padding: 8px; border-bottom: 1px solid var(--hair); vertical-align: baseline; }
th:first-child { padding-left: 0; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.best { font-weight: 700; }
tr.cast th, tr.cast td { color: var(--soft); }
tr.output th { color: var(--accent); }
td small { font-size: 0.75rem; }
th .under { display: block; font-size: 0.75rem; }
.badge {
  display: inline-block; margin-left: 7px; padding: 0 7px; border: 1px solid currentColor; border-radius: 99px;
  font-size: 0.7rem; font-weight: 500; line-height: 1.5; vertical-align: 1px; white-space: nowrap;
}
td.bars { width: 22%; min-width: 110px; vertical-align: middle; }
.legend { margin-top: 10px; font-size: 0.82rem; color: var(--soft); }
.kinds thead .key:first-child { margin-left: 0; }
.key { display: inline-block; width: 11px; height: 11px; margin: 0 5px 0 14px; vertical-align: -1px; }

svg { display: block; width: 100%; height: auto; overflow: visible; font-family: inherit; }
svg.narrow { display: none; }
.grid { stroke: var(--hair); } .axis { stroke: var(--soft); }
.tick { fill: var(--soft); font-size: 12px; } .tick.small { font-size: 9.5px; }
.title { fill: var(--soft); font-size: 12.5px; }
.name { fill: var(--ink); font-size: 12.5px; paint-order: stroke; stroke: var(--page); stroke-width: 3px; stroke-linejoin: round; }
.name.strong { font-weight: 700; fill: var(--accent); }
.band { fill: var(--band); } .band-edge { stroke: var(--soft); stroke-width: 0.75; stroke-dasharray: 2 3; }
.original { stroke: var(--soft); stroke-dasharray: 5 4; }
.frontier { fill: none; stroke: var(--accent-soft); stroke-width: 2; stroke-linejoin: round; }
.leader { stroke: var(--soft); stroke-width: 0.75; }
.mark { stroke: var(--page); stroke-width: 1.2; }
.mark.tried { fill: var(--accent); fill-opacity: 0.75; }
.mark.output { fill: var(--accent); }
.mark.cast { fill: var(--page); stroke: var(--soft); stroke-width: 1.8; }
.halo { fill: none; stroke: var(--accent); stroke-width: 1.3; }
rect.before { fill: var(--accent-soft); } rect.after, rect.output { fill: var(--accent); }
rect.plain { fill: var(--accent); fill-opacity: 0.5; } rect.reference { fill: var(--soft); fill-opacity: 0.65; }
rect.second { fill: var(--second); } rect.rail { fill: var(--rail); }
svg.bar { height: 7px; border-radius: 4px; overflow: hidden; }
.series polyline { fill: none; stroke-width: 1.1; }
.series.method polyline { stroke: var(--accent); } .series.method circle { fill: var(--accent); }
.series.rtn polyline { stroke: var(--second); stroke-dasharray: 3 2; }
.series.rtn circle { fill: var(--page); stroke: var(--second); stroke-width: 0.9; }
b.method { color: var(--accent); font-weight: 600; } b.rtn { color: var(--second); font-weight: 600; }
.panels { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 22px 20px; }
.panel figcaption { font-size: 0.82rem; font-weight: 600; line-height: 1.35; margin-bottom: 5px; overflow-wrap: anywhere; }
.panel small { display: block; font-size: 0.78rem; }
.columns { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 30px 40px; }
.columns h3 small { margin-left: 6px; }
.rows li { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 2px 10px; margin-top: 9px; font-size: 0.875rem; line-height: 1.3; }
.rows svg { grid-column: 1 / -1; }
.rows .output { color: var(--accent); font-weight: 650; }

details { margin-top: 20px; }
summary { cursor: pointer; color: var(--accent); font-weight: 550; padding: 6px 0; }
.sample { margin-top: 18px; }
.prompt { color: var(--soft); }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); gap: 12px; margin-top: 8px; }
.answer { min-width: 0; background: var(--card); border: 1px solid var(--hair); border-radius: 10px; padding: 11px 14px; }
.answer p { white-space: pre-wrap; font-size: 0.92rem; margin-top: 2px; }
pre {
  margin-top: 10px; padding: 13px 16px; background: var(--card); border: 1px solid var(--hair); border-radius: 10px;
  font: 0.82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 2;
}
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 5px 22px; margin-top: 10px; font-size: 0.92rem; }
.facts dt { color: var(--soft); }
.notes { margin-top: 26px; font-size: 0.92rem; }
.notes li { margin-top: 8px; padding-left: 14px; border-left: 3px solid var(--second); max-width: 76ch; }
footer { margin-top: 56px; padding-top: 14px; border-top: 1px solid var(--hair); font-size: 0.82rem; color: var(--soft); }

@media screen and (max-width: 900px) { .tiles { grid-template-columns: repeat(3, 1fr); } }
@media screen and (max-width: 700px) {
  main { padding: 24px 16px 40px; }
  section { margin-top: 44px; }
  .tiles { grid-template-columns: repeat(2, 1fr); gap: 10px; margin-top: 24px; }
  svg.wide { display: none; } svg.narrow { display: block; }
  .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 18px 12px; }
  .columns { grid-template-columns: minmax(0, 1fr); }
  table.cards, .cards tbody { display: block; }
  .cards thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .cards tr { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 8px; padding: 13px 0; border-bottom: 1px solid var(--hair); }
  .cards th, .cards td { display: block; padding: 0; border: 0; text-align: left; white-space: normal; }
  .cards tbody th, .cards td.bars, .cards td.span { grid-column: 1 / -1; width: auto; }
  .cards tbody th { font-size: 0.98rem; }
  .cards td[data-label]::before { content: attr(data-label); display: block; color: var(--soft); font-size: 0.75rem; font-weight: 400; }
  .cards .empty { display: none; }
  .cards td small { font-size: 0.68rem; }
  .kinds tr { grid-template-columns: minmax(0, 1fr) auto auto; gap: 3px 8px; padding: 10px 0; }
  .kinds tbody th { grid-column: 1; font-size: 0.92rem; }
  .kinds .from { color: var(--soft); } .kinds .from::after { content: " →"; }
  .kinds .encoding { order: 1; grid-column: 1 / -1; color: var(--soft); font-size: 0.82rem; }
  .kinds td.bars { order: 2; padding-top: 3px; }
  .facts { grid-template-columns: minmax(0, 1fr); gap: 0; } .facts dd { margin-bottom: 8px; }
}

@page { size: A4; margin: 13mm 14mm; }
@media print {
  :root { --page: #fff; --card: #fff; --rail: #f0eeea; }
  html { font-size: 10pt; } body { font-size: 1rem; line-height: 1.45; }
  main { max-width: none; padding: 0; }
  section { margin-top: 18pt; } .sample { margin-top: 8pt; } footer { margin-top: 8pt; padding-top: 5pt; }
  h2 { font-size: 13pt; } .headline { font-size: 19pt; margin-top: 8pt; } .verdict { font-size: 11pt; }
  .tiles { grid-template-columns: repeat(3, 1fr); gap: 7pt; margin-top: 14pt; }
  table { font-size: 8.2pt; } thead th { font-size: 7.6pt; } thead small, td small, .badge { font-size: 7pt; }
  tbody th, td { padding: 4pt 5pt; } thead th { padding: 0 5pt 4pt; }
  thead { display: table-header-group; }
  .columns { gap: 16pt 24pt; } .rows li { font-size: 9pt; margin-top: 5pt; }
  .panels { gap: 12pt 10pt; }
  tr, .tile, .panel, .facts, .answer, .rows li, .columns > div, section > figure, svg { break-inside: avoid; }
  pre, section > p { break-inside: avoid; }
  h2, h3, section > h2 + p, figcaption, .prompt { break-after: avoid; }
  .badge { display: block; margin: 0; padding: 0; border: 0; font-weight: 400; line-height: 1.3; }
  thead th, tbody th, td { padding-left: 3pt; padding-right: 3pt; }
  tbody th { min-width: 25mm; }
  details { display: none; }
}
)css";

}  // namespace hone
