"""How the pages look: one style sheet for light and dark, and the few lines of script that sort tables."""

VARIABLES = {
    # name: (light, dark); a plot names its colours by the keys, see `page.figure`
    "ground": ("#ffffff", "#14171c"),
    "panel": ("#f6f7f9", "#1c2027"),
    "ink": ("#1a1d21", "#e6e8eb"),
    "muted": ("#5b636e", "#9aa3ae"),
    "line": ("#dde1e6", "#323842"),
    "accent": ("#2563c9", "#6ea4ff"),
    "good": ("#1a7f4b", "#4ec98a"),
    "bad": ("#b3361e", "#ff8a6b"),
    # Series of a plot, after Okabe and Ito's colour-blind safe set, of one contrast on each ground.
    "series1": ("#0068a8", "#56b4e9"),
    "series2": ("#c24e00", "#f0905a"),
    "series3": ("#00805c", "#3ccfa4"),
    "series4": ("#a8478a", "#e79ac9"),
    "series5": ("#8a6d00", "#e0c040"),
    "series6": ("#5b636e", "#aab2bd"),
}


def _variables(dark: bool) -> str:
    return "".join(f"--{name}:{values[dark]};" for name, values in VARIABLES.items())


STYLE = (
    f"""
:root{{color-scheme:light dark;--heat:37 99 201;--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",
"Liberation Sans",Arial,sans-serif;--mono:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;
{_variables(False)}}}
@media(prefers-color-scheme:dark){{:root{{--heat:58 118 222;{_variables(True)}}}}}
"""
    + """
*{box-sizing:border-box}
html{scroll-padding-top:3.5rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 var(--sans)}
header>div,nav>div,main>section{max-width:1120px;margin-inline:auto}
header,main{padding-inline:20px}
header{padding-top:28px}
h1{font-size:1.7rem;line-height:1.25;margin-block:0;overflow-wrap:anywhere}
header p{margin:4px 0 0;color:var(--muted);overflow-wrap:anywhere}
nav{position:sticky;top:0;z-index:5;margin-top:16px;padding-inline:20px;background:var(--ground);
border-bottom:1px solid var(--line)}
nav>div{display:flex;gap:20px;overflow-x:auto;white-space:nowrap;scrollbar-width:none}
nav a{padding:10px 0;color:var(--muted);text-decoration:none}
nav a:hover,nav a:focus-visible{color:var(--ink)}
section{padding-top:30px}
h2{font-size:1.25rem;line-height:1.3;margin:0 0 12px}
h3{font-size:1rem;line-height:1.35;margin:24px 0 8px}
p{margin:0 0 12px;max-width:76ch;overflow-wrap:anywhere}
a{color:var(--accent)}
main{padding-bottom:48px}
.muted{color:var(--muted)}
.note{border-left:3px solid var(--accent);background:var(--panel);padding:10px 14px;border-radius:0 6px 6px 0;
max-width:none}
.bad{color:var(--bad)}.good{color:var(--good)}
code,pre{font-family:var(--mono);font-size:.87em}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 14px;margin:0 0 12px;
overflow-x:auto;line-height:1.55}
details{margin:0 0 12px}
summary{cursor:pointer;margin-bottom:8px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin-block:0 16px}
.tile{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 14px;min-width:0}
.tile *{display:block;overflow-wrap:anywhere}
.tile span{color:var(--muted);font-size:.87rem}
.tile b{font-size:1.35rem;line-height:1.3;font-weight:600;font-variant-numeric:tabular-nums}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:4px 20px;margin:0 0 12px}
.facts dt{color:var(--muted)}
.facts dd{margin:0;min-width:0;overflow-wrap:anywhere}
.scroll{overflow:auto;margin-bottom:16px;max-width:100%}
.scroll:has(+.more){margin-bottom:4px}
.more{color:var(--muted);font-size:.87rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:5px 16px 5px 0;text-align:left;vertical-align:baseline;border-bottom:1px solid var(--line)}
th{font-weight:600;white-space:nowrap}
th:last-child,td:last-child{padding-right:2px}
thead th{color:var(--muted);font-size:.87rem;position:sticky;top:0;background:var(--ground);z-index:1}
td.text{white-space:nowrap}
td.long{min-width:14em;max-width:60ch;overflow-wrap:anywhere}
td.number,th.number{text-align:right;white-space:nowrap}
td i{display:inline-block;width:56px;height:9px;margin-right:9px;border-radius:2px;
background:linear-gradient(var(--accent),var(--accent)) 0/var(--part) 100% no-repeat,var(--line)}
th button{all:unset;cursor:pointer}
th button:focus-visible{outline:2px solid var(--accent)}
th[aria-sort=ascending] button::after{content:" \\2191"}
th[aria-sort=descending] button::after{content:" \\2193"}
td:first-child,th:first-child{position:sticky;left:0;background:var(--ground)}
thead th:first-child{z-index:2}
.matrix td,.matrix th{padding:7px 10px;text-align:right;white-space:nowrap;border:2px solid var(--ground)}
.matrix td{position:static;background:rgb(var(--heat)/var(--share,0));min-width:76px;line-height:1.3}
.matrix td:not([style]){color:var(--muted)}
.matrix small{display:block}
.matrix th{max-width:11em;overflow:hidden;text-overflow:ellipsis}
.matrix tbody th,.matrix .title{text-align:left;color:var(--ink)}
.matrix .title{color:var(--muted);font-weight:400}
.matrix thead th{position:static}
.matrix thead th:first-child{position:sticky}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:28px 36px;
margin-bottom:16px}
.plots>div{min-width:0}
.plots>div>h3:first-child{margin-top:0}
figcaption{color:var(--muted);font-size:.87rem;overflow-wrap:anywhere}
.plot{display:block;width:100%;max-width:560px;height:auto;fill:var(--ink)}
.plot *{stroke-linejoin:round;stroke-linecap:butt}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;list-style:none;margin:0 0 12px;padding:0;font-size:.87rem}
.legend li{display:flex;align-items:center;gap:7px;min-width:0;overflow-wrap:anywhere}
.legend i{flex:none;width:14px;height:14px;border-radius:3px;background:var(--c)}
.legend i.dashed{background:none;border:2px dashed var(--c)}
.legend i.line{height:3px;width:20px}
.legend i.line.dashed{height:0;border:0;border-top:3px dashed var(--c)}
.legend i.outline{background:none;border:2px solid var(--c)}
.legend i.tinted{background:color-mix(in srgb,var(--c) 30%,transparent);border:2px solid var(--c)}
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(112px,1fr));gap:14px 16px;margin-bottom:16px}
.small figure{margin:0;min-width:0}
.small svg{display:block;width:100%;height:64px;background:var(--panel);border-radius:4px}
.small polyline{fill:none;stroke:var(--series1);stroke-width:1.5px;vector-effect:non-scaling-stroke}
.small .dot{fill:none;stroke:var(--series2);stroke-width:6px;stroke-linecap:round;vector-effect:non-scaling-stroke}
.small b{color:var(--ink);font-variant-numeric:tabular-nums}
.small figcaption{line-height:1.35;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.gallery{margin-bottom:20px}
.toggles{display:flex;flex-wrap:wrap;gap:4px 18px;margin-bottom:10px;font-size:.87rem}
.toggles label{display:flex;gap:6px;align-items:center;cursor:pointer}
.toggles input{margin:0;accent-color:var(--accent)}
.gallery:has(.show-true:not(:checked)) .of-true,
.gallery:has(.show-predicted:not(:checked)) .of-predicted{display:none}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:18px;align-items:start}
.pictures h3{grid-column:1/-1;margin:8px 0 -6px}
.picture{margin:0;min-width:0}
.picture:has(.zoom:checked){grid-column:1/-1}
.picture figcaption{margin-top:6px;white-space:pre-line;line-height:1.4}
.frame{position:relative;display:block;width:100%;max-width:var(--small);aspect-ratio:var(--aspect);overflow:hidden;
border-radius:4px;cursor:zoom-in;background:var(--panel)}
.picture:has(.zoom:checked) .frame{max-width:var(--large);cursor:zoom-out}
.frame img,.frame svg{position:absolute;inset:0;width:100%;height:100%;display:block}
.frame rect{fill:none;stroke:var(--c);stroke-width:1.8px;vector-effect:non-scaling-stroke}
.frame .strong{stroke-width:2.6px;fill:var(--c);fill-opacity:.16}
.frame .full .strong{fill-opacity:.05}
.frame .halo{stroke:#000;stroke-opacity:.4;stroke-width:3.4px;fill:none}
.frame .dashed{stroke-dasharray:5 3.5}
.frame rect:not(.halo){pointer-events:all}
.frame .zoom{position:absolute;opacity:0;inset:0}
.frame:focus-within{outline:2px solid var(--accent);outline-offset:2px}
.frame b{position:absolute;display:block;padding:0 4px;font:600 10.5px/15px var(--sans);white-space:nowrap;
overflow:hidden;text-overflow:ellipsis;background:var(--c);color:var(--t);border-radius:2px;
pointer-events:none}
.frame b.up{transform:translateY(-100%)}
.frame b.late,.frame:has(.zoom:checked) b.early{display:none}
.frame:has(.zoom:checked) b.late{display:block;font-size:12px;line-height:17px}
.lost{padding:14px;border:1px dashed var(--line);border-radius:4px;color:var(--muted);overflow-wrap:anywhere}
@media(max-width:520px){
header,main,nav{padding-inline:16px}
h1{font-size:1.4rem}
.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:8px}
.tiles{grid-template-columns:repeat(2,1fr)}
.tile b{font-size:1.15rem}
td i{display:none}
th,td{padding-right:12px}
}
@media print{nav,.toggles,.more{display:none}.scroll{max-height:none!important}}
"""
)

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const number = head.classList.contains("number");
      const up = head.ariaSort ? head.ariaSort === "descending" : !number;
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (!number) return up ? x.localeCompare(y) : y.localeCompare(x);
        if (x === "" || y === "") return (x === "") - (y === "");
        return up ? x - y : y - x;
      };
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...[...body.rows].sort(order));
    };
  });
}
"""
