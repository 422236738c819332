(function () {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = read("figures"), config = read("config");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const axes = (layout) => Object.keys(layout).filter((key) => /^[xy]axis/.test(key));
  function colours(layout, isDark) {
    const ink = isDark ? "#e5e8ec" : "#1b1f26", grid = isDark ? "#2d343e" : "#e3e6eb";
    const change = { "font.color": ink, "hoverlabel.bgcolor": isDark ? "#1c2027" : "#ffffff", "hoverlabel.font.color": ink,
      "modebar.color": isDark ? "#9da7b5" : "#5b6472", "modebar.activecolor": ink, "modebar.bgcolor": "rgba(0,0,0,0)" };
    for (const axis of axes(layout)) {
      change[axis + ".gridcolor"] = grid; change[axis + ".zerolinecolor"] = grid; change[axis + ".linecolor"] = grid;
    }
    return change;
  }
  function draw(box) {
    if (box.dataset.drawn) return;
    box.dataset.drawn = "1";
    const figure = figures[Number(box.dataset.figure)];
    Plotly.newPlot(box, figure.data, figure.layout, config);
    Plotly.relayout(box, colours(figure.layout, dark.matches));
  }
  // a figure is drawn when its place has a size
  const seen = (box) => box.checkVisibility ? box.checkVisibility() : box.getClientRects().length > 0;
  const drawSeen = (within) => [...within.querySelectorAll(".plot")].filter(seen).forEach(draw);
  const open = (details) => { if (details.open) drawSeen(details); };
  function tabs(group, g) {
    const panels = [...group.querySelectorAll(":scope > .panel")];
    if (panels.length < 2) return;
    const list = document.createElement("div");
    list.setAttribute("role", "tablist"); list.setAttribute("aria-label", group.dataset.label);
    const buttons = panels.map((panel, i) => {
      const button = document.createElement("button");
      button.type = "button"; button.id = "tab-" + g + "-" + i; button.setAttribute("role", "tab");
      button.setAttribute("aria-controls", panel.id);
      button.innerHTML = panel.querySelector("h4").innerHTML;
      panel.setAttribute("role", "tabpanel"); panel.setAttribute("aria-labelledby", button.id); panel.tabIndex = 0;
      button.addEventListener("click", () => choose(i));
      list.append(button);
      return button;
    });
    function choose(i, focus) {
      buttons.forEach((button, k) => {
        button.setAttribute("aria-selected", String(k === i)); button.tabIndex = k === i ? 0 : -1; panels[k].hidden = k !== i;
      });
      if (focus) buttons[i].focus();
      drawSeen(panels[i]);
    }
    list.addEventListener("keydown", (event) => {
      const now = buttons.indexOf(document.activeElement), last = buttons.length - 1;
      const next = { ArrowRight: now === last ? 0 : now + 1, ArrowLeft: now === 0 ? last : now - 1, Home: 0, End: last }[event.key];
      if (next === undefined) return;
      event.preventDefault(); choose(next, true);
    });
    group.prepend(list); group.classList.add("tabbed");
    const first = panels.findIndex((panel) => panel.hasAttribute("data-first"));
    choose(first < 0 ? 0 : first);
  }
  document.querySelectorAll(".tabs").forEach(tabs);
  const drawn = () => document.querySelectorAll(".plot[data-drawn]");
  const all = document.querySelectorAll("details");
  all.forEach((details) => { details.addEventListener("toggle", () => open(details)); open(details); });
  drawSeen(document);
  function follow() {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const details = target && target.closest("details");
    if (!details) return;
    details.open = true; open(details);
    if (target.matches("[role=tabpanel]")) document.getElementById(target.getAttribute("aria-labelledby")).click();
    (target === details ? details : details.querySelector("[role=tablist]") || target).scrollIntoView();
  }
  window.addEventListener("hashchange", follow); follow();
  dark.addEventListener("change", () => drawn().forEach((box) => Plotly.relayout(box, colours(box.layout, dark.matches))));
  let closed = [], hidden = [];
  window.addEventListener("beforeprint", () => {
    closed = [...all].filter((details) => !details.open);
    hidden = [...document.querySelectorAll(".panel[hidden]")];
    hidden.forEach((panel) => { panel.hidden = false; });
    closed.forEach((details) => { details.open = true; });
    drawSeen(document);
    drawn().forEach((box) => Plotly.relayout(box, { ...colours(box.layout, false), width: 700 }));
  });
  window.addEventListener("afterprint", () => {
    drawn().forEach((box) => { Plotly.relayout(box, { ...colours(box.layout, dark.matches), width: null, autosize: true }); });
    closed.forEach((details) => { details.open = false; }); closed = [];
    hidden.forEach((panel) => { panel.hidden = true; }); hidden = [];
  });
})();
