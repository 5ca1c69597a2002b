// Keeps what is shown up to date. Everything works without it.
"use strict";
(() => {
  const main = document.getElementById("main");
  const told = document.getElementById("told");
  let planned = null;
  let isSoon = false;

  const isChanged = (e) => e.nodeName === "SELECT"
    ? e.selectedIndex !== Math.max(0, [...e.options].findIndex((o) => o.defaultSelected))
    : e.value !== e.defaultValue;

  // What somebody types or chooses, and what they have marked, stays.
  const isBusy = () =>
    document.hidden ||
    (document.activeElement !== null && document.activeElement.matches("textarea, input, select")) ||
    [...main.querySelectorAll("textarea, input, select")].some(isChanged) ||
    String(document.getSelection()) !== "";

  async function refresh() {
    planned = null;
    isSoon = false;
    let wait = 2000;
    try {
      if (!isBusy()) {
        await look();
        wait = Number(main.dataset.refresh ?? 0) * 1000;
      }
    } catch { /* the server is away: the next time */ }
    if (wait && planned === null) plan(wait);
  }

  async function look() {
    const answer = await fetch(location.href, { redirect: "manual", headers: { Accept: "text/html" } });
    if (answer.type === "opaqueredirect") { location.reload(); return; }  // nobody is logged in any more
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.getElementById("main");
    if (found === null || isBusy()) return;
    if (found.dataset.told && found.dataset.told !== main.dataset.told) told.textContent = found.dataset.told;
    document.title = page.title;
    const hadFocus = main.contains(document.activeElement);
    update(main, found);
    if (hadFocus && document.activeElement === document.body) main.focus({ preventScroll: true });  // it is gone
  }

  // Make `old` what `fresh` is, and touch nothing that is so already: focus, scrolling and what is
  // unfolded stay. A child with a data-key is the one that has the same key.
  function update(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) { old.data = fresh.data; return; }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    }
    const keyOf = (node) => node.dataset?.key;
    const here = new Map([...old.children].filter(keyOf).map((e) => [keyOf(e), e]));
    const kept = new Set([...fresh.children].map(keyOf).filter(Boolean));
    let next = old.firstChild;
    const passOver = () => { const gone = next; next = next.nextSibling; gone.remove(); };
    for (const child of [...fresh.childNodes]) {
      const key = keyOf(child);
      const own = key ? here.get(key) : next;
      // A node that is moved loses the focus, so what is gone goes from before it.
      if (key && own) while (next !== null && next !== own && !kept.has(keyOf(next))) passOver();
      if (!own || own.nodeName !== child.nodeName || keyOf(own) !== key) { old.insertBefore(child, next); continue; }
      if (own === next) next = next.nextSibling;
      else old.insertBefore(own, next);
      update(own, child);
    }
    while (next !== null) passOver();
  }

  function plan(milliseconds) {
    clearTimeout(planned);
    planned = setTimeout(refresh, milliseconds);
  }

  // While much happens, it is looked at again and again, and not put off.
  function soon() {
    if (isSoon) return;
    isSoon = true;
    plan(300);
  }

  // A browser has few connections to a host: a tab that nobody sees needs none.
  let events = null;
  let hasEnded = false;
  let last = null;
  function listen() {
    const address = main.dataset.events;
    if (!address || hasEnded || events !== null || document.hidden) return;
    events = new EventSource(last === null ? address : address.replace(/after=\d+$/, `after=${last}`));
    const heard = (event) => { last = event.lastEventId; soon(); };
    for (const kind of ["run", "crew", "flow", "agent", "task", "method", "llm", "tool", "step", "memory", "knowledge", "mcp", "request"]) {
      for (const what of ["started", "ended", "resumed", "parked", "suspended", "stopped", "cancelled", "opened", "answered", "abandoned"]) {
        events.addEventListener(`${kind}.${what}`, heard);
      }
    }
    events.addEventListener("end", () => { hasEnded = true; hush(); soon(); });
  }
  function hush() {
    if (events !== null) events.close();
    events = null;
  }

  if (main.dataset.refresh) plan(Number(main.dataset.refresh) * 1000);
  listen();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { hush(); return; }
    listen();
    if (main.dataset.refresh) plan(100);
  });
  addEventListener("pagehide", hush);
  addEventListener("pageshow", listen);

  // Sent once. Its buttons are left until it is on its way: the one that was pressed is a part of it.
  document.addEventListener("submit", (event) => {
    const buttons = [...event.target.querySelectorAll("button:not([disabled])")];
    setTimeout(() => { for (const each of buttons) each.disabled = true; }, 0);
    setTimeout(() => { for (const each of buttons) each.disabled = false; }, 10000);
  });
})();
