"""The look of the report and of the stand-alone picture: one palette, light and dark.

Series colours keep 4.5:1 against their background and differ in lightness as well as hue (after Okabe and Ito), so
that they stay apart for readers who see fewer colours, and in print.
"""

from __future__ import annotations

_LIGHT = """
--bg:#ffffff; --panel:#f5f7f9; --ink:#1b2127; --muted:#5a6570; --line:#dde2e8; --accent:#0b5cad;
--good:#0a6b4d; --bad:#a8321f;
--s0:#59636f; --s1:#a85a00; --s2:#0b5cad; --s3:#00745a; --s4:#96307a; --s5:#b83a24; --s6:#5d4bb0;
--c0:#1f6f9f; --c1:#8cc3e0; --c2:#e8a33d; --c3:#c9ced4;
"""

_DARK = """
--bg:#11161b; --panel:#19212a; --ink:#e7ebef; --muted:#9fabb7; --line:#2c3640; --accent:#6cb6ff;
--good:#4fd1a5; --bad:#ff8d78;
--s0:#b3bdc8; --s1:#f2a65a; --s2:#6cb6ff; --s3:#45d0a8; --s4:#ee8fd0; --s5:#ff8d78; --s6:#b9a8f5;
--c0:#3f8fc4; --c1:#27506e; --c2:#d9922b; --c3:#46505b;
"""

PALETTE = f":root{{color-scheme:light dark;{_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"

_SERIES = "".join(f".s{i}{{--c:var(--s{i})}}" for i in range(7))

CHART = (
    _SERIES
    + """
.neutral{--c:var(--muted)}
.chart text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:var(--muted)}
.chart text.tick{font-variant-numeric:tabular-nums}
.chart text.label,.chart text.name{fill:var(--ink)}
.grid{stroke:var(--line);stroke-width:1}
.axis{stroke:var(--muted);stroke-width:1}
.zero{stroke:var(--ink);stroke-width:1.2}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round;stroke-linecap:butt}
.line.thin{stroke-width:1.4}
.band{fill:var(--c);fill-opacity:.13;stroke:none}
.mark{fill:var(--c);stroke:var(--bg);stroke-width:.8}
.hollow{fill:var(--bg);stroke:var(--c);stroke-width:1.4}
.touch{fill:transparent}
.chart text.halo{paint-order:stroke;stroke:var(--bg);stroke-width:5px;stroke-linejoin:round}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}
.cell{fill:var(--c);stroke:var(--bg);stroke-width:.6}
"""
)

PAGE = """
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);-webkit-text-size-adjust:100%;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,nav,footer{max-width:62rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
h1{font-size:clamp(1.6rem,4.5vw,2.2rem);line-height:1.2;letter-spacing:-.015em;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:3rem 0 .5rem;padding-top:1.25rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.5rem 0 .25rem}
p{margin:.5rem 0;max-width:46rem}
.lede{color:var(--muted);font-size:1.02rem}
a{color:var(--accent)}
nav{font-size:.9rem;padding-top:1rem}
nav a{display:inline-block;padding:.15rem 0}
nav a{margin-right:1rem;text-decoration:none;white-space:nowrap}
nav a:hover,nav a:focus{text-decoration:underline}
.findings{list-style:none;padding:0;margin:1.25rem 0;border-left:3px solid var(--accent)}
.findings li{padding:.2rem 0 .2rem .9rem;max-width:50rem}
.verdict{color:var(--muted)}
figure{margin:1.25rem 0}
figcaption,.note{color:var(--muted);font-size:.88rem;max-width:46rem}
.chart{display:block;width:100%;height:auto}
.narrow{display:none}
@media (max-width:700px){.wide{display:none}.narrow{display:block;max-width:30rem}}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;list-style:none;padding:0;margin:.5rem 0;font-size:.88rem}
.legend li{display:flex;align-items:center;gap:.4rem;overflow-wrap:anywhere}
.legend svg{flex:none;width:30px;height:16px}
.legend .box{width:12px;height:12px;border-radius:2px;background:var(--c);flex:none}
.grid-of{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17.5rem),1fr));gap:1rem 1.25rem}
.grid-of.pairs{grid-template-columns:repeat(auto-fill,minmax(min(100%,24rem),1fr))}
.grid-of figure{margin:0;min-width:0;max-width:30rem}
.grid-of h3{margin:.25rem 0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.5rem 0;border:1px solid var(--line);border-radius:8px}
.scroll:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
figure.tabular{margin:1.5rem 0}
th,td{padding:.45rem .75rem;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
tbody th{font-weight:600;min-width:7rem;max-width:12rem;overflow-wrap:anywhere}
.n{text-align:right;white-space:nowrap}
thead th,thead th.n{background:var(--panel);font-weight:600;vertical-align:bottom;border-top:0;line-height:1.3;
white-space:normal;min-width:4.5rem}
tbody th,thead th:first-child{position:sticky;left:0;z-index:1}
tbody th{background:var(--bg)}
.nb{white-space:nowrap}
.ci{display:block;color:var(--muted);font-size:.82em}
.best{font-weight:700}.best .ci{font-weight:400}
.large td,.large th{background:var(--panel)}
.text{min-width:8rem;max-width:22rem;overflow-wrap:anywhere}
.used{font-weight:600;box-shadow:inset 3px 0 0 var(--accent)}
.right{color:var(--good)}.wrong{color:var(--bad)}
.bar{display:flex;min-width:9rem;height:1.1rem;border-radius:3px;overflow:hidden}
.bar span{background:var(--c);box-shadow:inset -1px 0 0 var(--bg)}
details{border:1px solid var(--line);border-radius:8px;margin:.6rem 0;padding:.5rem .9rem}
summary{cursor:pointer;font-weight:600;overflow-wrap:anywhere}
pre{overflow-x:auto;background:var(--panel);padding:.75rem;border-radius:6px;
font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
dt{font-weight:600;margin-top:.7rem}dd{margin:0 0 0 1rem;max-width:46rem}
footer{color:var(--muted);font-size:.85rem;padding-top:2rem;padding-bottom:3rem}
@media print{nav{display:none}details{break-inside:avoid}figure{break-inside:avoid}}
"""
