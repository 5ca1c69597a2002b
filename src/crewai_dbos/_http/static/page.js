// Keeps what is shown up to date. Everything works without it.
"use strict";
(() => {
  const main = document.getElementById("main");
  let planned = null;

  // A form that somebody fills in, and what they have marked, stay.
  const isBusy = () =>
    document.hidden ||
    main.querySelector("details[open]") !== null ||
    (document.activeElement !== null && document.activeElement.closest("form") !== null) ||
    [...main.querySelectorAll("textarea, input")].some((e) => e.value !== e.defaultValue) ||
    String(document.getSelection()) !== "";

  async function refresh() {
    planned = null;
    if (isBusy()) { plan(2000); return; }
    try {
      const answer = await fetch(location.href, { redirect: "error", headers: { Accept: "text/html" } });
      if (!answer.ok) return;
      const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
      if (found === null || isBusy()) return;
      if (found.innerHTML !== main.innerHTML) {
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
    } catch { /* the server is away: the next time */ }
    const every = Number(main.getAttribute("data-refresh"));
    if (every) plan(every * 1000);
  }

  function plan(milliseconds) {
    clearTimeout(planned);
    planned = setTimeout(refresh, milliseconds);
  }

  const every = Number(main.getAttribute("data-refresh"));
  if (every) plan(every * 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && every) plan(100); });

  const address = main.getAttribute("data-events");
  if (address) {
    const events = new EventSource(address);
    const soon = () => plan(300);
    for (const kind of ["run", "crew", "flow", "agent", "task", "method", "llm", "tool", "step", "memory", "knowledge", "mcp", "request"]) {
      for (const what of ["started", "ended", "resumed", "parked", "suspended", "stopped", "cancelled", "opened", "answered", "abandoned"]) {
        events.addEventListener(`${kind}.${what}`, soon);
      }
    }
    events.addEventListener("end", () => { events.close(); soon(); });
  }
})();
