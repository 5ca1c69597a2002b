// Keeps what is shown up to date. Everything works without it.
"use strict";
(() => {
  const main = document.getElementById("main");
  let planned = null;
  let isSoon = false;

  // A form that somebody fills in, and what they have marked, stay.
  const isBusy = () =>
    document.hidden ||
    main.querySelector("details[open]") !== null ||
    (document.activeElement !== null && document.activeElement.closest("form") !== null) ||
    [...main.querySelectorAll("textarea, input")].some((e) => e.value !== e.defaultValue) ||
    String(document.getSelection()) !== "";

  async function refresh() {
    planned = null;
    isSoon = false;
    let wait = 2000;
    try {
      if (!isBusy()) {
        await look();
        wait = Number(main.getAttribute("data-refresh")) * 1000;
      }
    } catch { /* the server is away: the next time */ }
    if (wait && planned === null) plan(wait);
  }

  async function look() {
    const answer = await fetch(location.href, { redirect: "manual", headers: { Accept: "text/html" } });
    if (answer.type === "opaqueredirect") { location.reload(); return; }  // nobody is logged in any more
    if (!answer.ok) return;
    const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
    if (found === null || isBusy()) return;
    if (shown(found) !== shown(main)) {
      const focused = document.activeElement && document.activeElement.getAttribute("href");
      const at = [scrollX, scrollY];
      main.replaceChildren(...found.childNodes);
      scrollTo(...at);
      if (focused) {
        const again = [...main.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused);
        if (again) again.focus({ preventScroll: true });
      }
    }
    for (const name of ["data-refresh", "data-events"]) {
      if (!found.hasAttribute(name)) main.removeAttribute(name);
    }
  }

  // Each form has another number, by which it is taken once.
  function shown(element) {
    const copy = element.cloneNode(true);
    for (const each of copy.querySelectorAll("input[name=once]")) each.remove();
    return copy.innerHTML;
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

  const every = Number(main.getAttribute("data-refresh"));
  if (every) plan(every * 1000);

  // A browser has few connections to a host: a tab that nobody sees needs none.
  let events = null;
  let hasEnded = false;
  function listen() {
    const address = main.getAttribute("data-events");
    if (!address || hasEnded || events !== null || document.hidden) return;
    events = new EventSource(address);
    for (const kind of ["run", "crew", "flow", "agent", "task", "method", "llm", "tool", "step", "memory", "knowledge", "mcp", "request"]) {
      for (const what of ["started", "ended", "resumed", "parked", "suspended", "stopped", "cancelled", "opened", "answered", "abandoned"]) {
        events.addEventListener(`${kind}.${what}`, soon);
      }
    }
    events.addEventListener("end", () => { hasEnded = true; hush(); soon(); });
  }
  function hush() {
    if (events !== null) events.close();
    events = null;
  }
  listen();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { hush(); return; }
    listen();
    if (every) plan(100);
  });
  addEventListener("pagehide", hush);

  // Sent once. Its buttons are left until it is on its way: the one that was pressed is a part of it.
  document.addEventListener("submit", (event) => {
    const buttons = [...event.target.querySelectorAll("button:not([disabled])")];
    setTimeout(() => { for (const each of buttons) each.disabled = true; }, 0);
    setTimeout(() => { for (const each of buttons) each.disabled = false; }, 10000);
  });
})();
