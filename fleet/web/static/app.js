// Keeps the page current: when the fleet says that something changed, the same
// page is fetched again and the regions marked data-live are exchanged.
// Without this file every page still says all it has to say.
"use strict";
(() => {
  const lamp = document.getElementById("lamp");
  const device = document.body.dataset.device || "";
  const GAP = 1000;      // ms between two refreshes, at least
  const CLOCK = 20000;   // ms after which "12 s ago" is brought up to date anyway
  let source = null, timer = 0, last = Date.now(), busy = false, again = false;

  function say(state, word) {
    if (lamp.dataset.lamp !== state) { lamp.dataset.lamp = state; lamp.textContent = word; }
  }

  function selecting(region) {
    const s = getSelection();
    return s && !s.isCollapsed && region.contains(s.anchorNode);
  }

  function swap(old, fresh) {
    if (old.isEqualNode(fresh) || selecting(old)) return;
    const open = new Map([...old.querySelectorAll("details[id]")].map(d => [d.id, d.open]));
    const marks = new Map([...old.querySelectorAll("[data-mark]")].map(e => [e.id, e.dataset.mark]));
    const held = old.contains(document.activeElement) ? document.activeElement : null;
    old.replaceChildren(...[...fresh.childNodes].map(n => document.importNode(n, true)));
    for (const [id, was] of open) {
      const d = document.getElementById(id);
      if (d) d.open = was;
    }
    for (const e of old.querySelectorAll("[data-mark]")) {
      if (marks.get(e.id) !== e.dataset.mark) e.classList.add("flash");
    }
    if (held) {
      const href = held.getAttribute("href"), box = held.closest("details[id]");
      const same = href ? [...old.querySelectorAll("a[href]")].find(e => e.getAttribute("href") === href)
        : box && document.getElementById(box.id)?.querySelector("summary");
      if (same) same.focus({preventScroll: true});
    }
  }

  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    last = Date.now();
    try {
      const answer = await fetch(location.href, {cache: "no-store", redirect: "error"});
      const type = answer.headers.get("Content-Type") || "";
      if (!answer.ok || !type.startsWith("text/html")) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(old.id);
        if (fresh) swap(old, fresh);
      }
      document.title = page.title;
      if (source && source.readyState === EventSource.OPEN) say("live", "Live");
    } catch {
      say("lost", "Reconnecting");
    }
    busy = false;
    if (again) { again = false; soon(); }
  }

  function soon() {
    if (timer || document.hidden) return;
    timer = setTimeout(() => { timer = 0; refresh(); }, Math.max(80, last + GAP - Date.now()));
  }

  // A hidden tab holds no stream: browsers allow few connections to one host.
  function watch() {
    if (document.hidden) {
      if (source) source.close();
      source = null;
      return;
    }
    if (source && source.readyState !== EventSource.CLOSED) return;
    source = new EventSource("/events" + (device ? "?device=" + encodeURIComponent(device) : ""));
    source.onopen = () => { say("live", "Live"); soon(); };
    source.onerror = () => say("lost", "Reconnecting");
    source.addEventListener("change", soon);
  }

  document.addEventListener("visibilitychange", watch);
  addEventListener("pagehide", () => { if (source) source.close(); source = null; });
  addEventListener("pageshow", watch);
  setInterval(() => { watch(); soon(); }, CLOCK);
  watch();
})();
