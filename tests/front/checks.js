// What is wrong with a page, as somebody sees it, has it read out, or goes through it with Tab.
window.checks = {
  // Texts too faint or small, things too wide for the page, or too low to press.
  look() {
    const found = [];
    const say = (what, e) => found.push(`${what}: ${e.outerHTML.slice(0, 120)}`);
    const isShown = (e) => e.checkVisibility() && !e.closest(".unseen, [hidden], option");
    const parse = (text) => {
      const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
      return { rgb: [r, g, b], a };
    };
    const light = (rgb) => {
      const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (e) => {
      for (; e; e = e.parentElement) {
        const { rgb, a } = parse(getComputedStyle(e).backgroundColor);
        if (a === 1) return rgb;
      }
      return [255, 255, 255];
    };
    const contrast = (one, two) => {
      const [a, b] = [light(one), light(two)].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    };
    for (const e of document.querySelectorAll("[hidden]")) if (e.checkVisibility()) say("not hidden", e);
    for (const e of document.querySelectorAll("body *")) {
      if (!isShown(e)) continue;
      const isText = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
      if (isText) {
        const style = getComputedStyle(e);
        const ink = parse(e.namespaceURI.endsWith("svg") ? style.fill : style.color);
        if (contrast(ink.rgb, ground(e)) < 4.5) say("faint", e);
        if (parseFloat(style.fontSize) < 11) say("small", e);
      }
      const box = e.getBoundingClientRect();
      if (box.right > innerWidth + 1 && !e.closest("pre, svg") && getComputedStyle(e).position !== "absolute") say("too wide", e);
      if (e.matches("button, summary, select, input:not([type=hidden]), .button") && box.height < 24) say("too low to press", e);
    }
    if (document.documentElement.scrollWidth > innerWidth) found.push("the page scrolls sideways");
    return found;
  },

  // What is missing for somebody who has the page read out.
  hear() {
    const found = [];
    const say = (what, e) => found.push(`${what}: ${e.outerHTML.slice(0, 120)}`);
    const named = (e) => (e.getAttribute("aria-label") || document.getElementById(e.getAttribute("aria-labelledby"))?.textContent ||
      [...(e.labels ?? [])].map((l) => l.textContent).join() || (e.matches("input, select, textarea, section, table, fieldset") ? "" : e.textContent)).trim();
    for (const e of document.querySelectorAll("a, button:not([hidden]), input:not([type=hidden]), select, textarea, summary, section, nav, pre")) {
      if (!named(e)) say("no name", e);
    }
    for (const e of document.querySelectorAll("table")) if (!e.caption) say("no caption", e);
    for (const e of document.querySelectorAll("th")) if (!e.scope) say("no scope", e);
    for (const e of document.querySelectorAll("fieldset")) if (!e.querySelector("legend")) say("no legend", e);
    for (const e of document.querySelectorAll("[aria-describedby], [aria-labelledby]")) {
      const id = e.getAttribute("aria-describedby") ?? e.getAttribute("aria-labelledby");
      if (!document.getElementById(id)) say("describes nothing", e);
    }
    const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
    if (new Set(ids).size !== ids.length) found.push(`an id twice: ${ids}`);
    if (!document.documentElement.lang || !document.title) found.push("no language or title");
    for (const tag of ["header", "nav", "main", "h1"]) {
      if (document.querySelectorAll(tag).length !== 1) found.push(`not one ${tag}`);
    }
    let level = 0;
    for (const e of document.querySelectorAll("h1, h2, h3, h4")) {
      if (Number(e.localName[1]) > level + 1) say("a heading is left out before", e);
      level = Number(e.localName[1]);
    }
    if (document.querySelectorAll("[role=status]#told").length !== 1) found.push("no live region");
    return found;
  },

  // What has the focus, whether that is seen, and where it is in the page; null if nothing has.
  focus() {
    const e = document.activeElement;
    if (e === document.body) return null;
    const style = getComputedStyle(e), box = e.getBoundingClientRect();
    return {
      name: (e.getAttribute("aria-label") || [...(e.labels ?? [])].map((l) => l.textContent).join() || e.textContent).trim().slice(0, 60),
      isSeen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.bottom > 0 && box.top < innerHeight
        && box.right > 0 && box.left < innerWidth,
      place: [...document.querySelectorAll("*")].indexOf(e),
    };
  },
};
