// Renews what has changed, and says when the service doesn't answer. Without this the page is the same, and older.
"use strict";

const SECONDS = 5;

async function renew() {
  const offline = document.getElementById("offline");
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(SECONDS * 1000) });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const old of document.querySelectorAll("[data-live]")) {
      const young = fresh.getElementById(old.id);
      if (!young) continue;
      if (old.className !== young.className) old.className = young.className;
      // What stays the same isn't touched: a screen reader would say it again.
      if (old.innerHTML !== young.innerHTML) old.replaceChildren(...young.childNodes);
    }
    document.title = fresh.title;
    offline.hidden = true;
  } catch {
    offline.hidden = false;
  }
}

setInterval(() => { if (!document.hidden) renew(); }, SECONDS * 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) renew(); });
