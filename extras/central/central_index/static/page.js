// The studies as they arrive. Text from the index goes into the page as text only, never as markup.

import { addressOf, fromAddress, shared } from "./address.js";
import { readCenters } from "./centers.js";
import { keepFocus, prepareDetail, row } from "./study.js";
import { markSorted, nextSort, sorted } from "./sorting.js";
import { language, refusal, said, translate } from "./texts.js";

const byId = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat(language);
translate();
const labels = [...byId("found").querySelectorAll("th")].map((head) => head.textContent);

const KINDS = [...byId("kind").options].map((one) => one.value);
const UID = /^[0-2](\.\d+){3,}$/;
byId("sorting").dataset.label = said.sort;

let events = null;
let filters = {};
let reversed = false;    // the last day is before the first: nothing was asked for
let shownFor = "";       // the search whose studies are shown
let sort = null;         // a column, with - before it for the other way round; null: as the index says, newest first
let chosen = false;      // whether the pick lists were filled
let pages = 1;           // how many pages are shown; each change reads them anew
let known = new Map();   // id -> version, to mark what is new
let session = 0;         // another one after each logout: what was asked for in an earlier one isn't shown any more
let reading = false;
let again = false;
let later;               // what failed is tried again

async function ask(path, content) {
  return fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content ?? {}),
  });
}

function show(loggedIn) {
  byId("login").hidden = loggedIn;
  for (const id of ["views", "logout", "total", "live"]) byId(id).hidden = !loggedIn;
  const centers = fromAddress().view === "centers";
  if (loggedIn) fillChoices();
  else chosen = false;
  byId("studies").hidden = !loggedIn || centers;
  byId("region").hidden = !loggedIn || !centers;
  byId("to-studies").toggleAttribute("aria-current", !centers);
  byId("to-centers").toggleAttribute("aria-current", centers);
  if (loggedIn) return;
  session += 1;
  clearTimeout(later);
  byId("detail").close();
  events?.close();
  events = null;
  clear();
  byId("csv-message").textContent = "";
  byId("center-rows").replaceChildren();
  byId("key").focus();
}

function clear() {
  known = new Map();
  shownFor = "";
  byId("rows").replaceChildren();
  for (const id of ["hits", "person"]) byId(id).textContent = "";
  for (const id of ["none", "more", "as"]) byId(id).hidden = true;
  byId("found").classList.remove("old");
}

// Nothing stays beneath that isn't what was asked for; what was, a moment ago, is marked.
function fail(text, passing) {
  clearTimeout(later);
  if (passing) later = setTimeout(read, 5000);
  if (fromAddress().view === "centers") {
    byId("region-message").textContent = text;
    byId("region").classList.add("old");
    return;
  }
  byId("message").textContent = text;
  if (passing && shownFor === JSON.stringify(filters)) byId("found").classList.add("old");
  else clear();
}

// What was looked for is, or may be, something else.
function offer(answer, count) {
  const asked = KINDS.find((kind) => filters[kind]);
  const kinds = asked === undefined ? []
    : asked === "patient" && UID.test(filters.patient) ? ["study_iuid"] : answer.patient_is_id ? ["patient_id"]
      : count === 0 ? KINDS.filter((kind) => kind !== asked) : [];
  byId("as").hidden = kinds.length === 0;
  for (const button of byId("as").querySelectorAll("button")) button.hidden = !kinds.includes(button.dataset.kind);
}

async function read() {
  // One at a time; what comes meanwhile is read once more afterwards.
  if (reading) { again = true; return; }
  reading = true;
  try {
    do {
      again = false;
      const mine = session;
      const over = () => mine !== session;
      if (fromAddress().view === "centers") {
        const loggedIn = await readCenters(over);
        if (over()) return;
        if (!loggedIn) { show(false); return; }
        show(true);
        watch();
        continue;
      }
      if (reversed) { show(true); watch(); continue; }
      const studies = [];
      let after = null;
      let answer;
      let first;
      for (let page = 0; page < pages && (page === 0 || after !== null); page++) {
        const response = await ask("/api/v1/search", { ...filters, after });
        if (over()) return;
        if (response.status === 401) { show(false); return; }
        answer = await response.json();
        if (over()) return;
        if (!response.ok) { fail(refusal(answer, response.status), response.status >= 500); show(true); watch(); return; }
        first ??= answer;
        studies.push(...answer.studies);
        after = answer.next;
      }
      byId("message").textContent = "";
      byId("found").classList.remove("old");
      shownFor = JSON.stringify(filters);
      // On the first look all of them are new, and none is marked.
      const newest = known.size === 0 ? Infinity : Math.max(...known.keys());
      const rows = sorted(studies, sort).map((study) => row(study, newest, known, labels, { person }));
      keepFocus(byId("rows"), () => byId("rows").replaceChildren(...rows));
      markSorted(byId("found"), sort);
      known = new Map(studies.map((study) => [study.id, study.versions]));
      byId("total").textContent = answer.total === null ? "" : said.total(numbers.format(answer.total), answer.total);
      const asked = Object.keys(filters).length > 0 && first.hits !== null && studies.length > 0;
      const hits = numbers.format(first.hits ?? 0);
      const line = [!asked ? "" : first.more_hits ? said.moreHits(hits) : said.hits(hits, first.hits)];
      if (sort !== null && after !== null) line.push(said.sorted(numbers.format(studies.length)));
      byId("hits").textContent = line.filter((one) => one !== "").join("; ");
      const nobody = first.one_person === false && studies.length > 0;
      byId("person").textContent = first.names_differ ? said.differ : first.one_person ? said.person : nobody ? said.nobody : "";
      byId("person").className = first.names_differ ? "differ" : "hint";
      offer(first, studies.length);
      byId("none").hidden = studies.length > 0;
      byId("more").hidden = after === null;
      show(true);
      watch();
    } while (again);
  } catch {
    fail(said.failed, true);
  } finally {
    reading = false;
    // Somebody logged in while an answer of the session before was under way.
    if (again) read();
  }
}

// Another search: what was known is new again, and the address says what of it may be shared.
function look(wanted, remember = true) {
  // What was said of its CSV stays until here, whatever news come.
  byId("csv-message").textContent = "";
  reversed = Boolean(wanted.from && wanted.to && wanted.to < wanted.from);
  byId("reversed").textContent = reversed ? said.reversed : "";
  if (reversed) { byId("message").textContent = ""; clear(); return; }
  filters = wanted;
  pages = 1;
  known = new Map();
  if (remember) history.pushState(null, "", addressOf(filters, sort));
  byId("to-studies").setAttribute("href", addressOf(filters, sort));
  read();
}

function person(study) {
  fill({ patient_id: study.patient_id });
  look({ patient_id: study.patient_id });
}

// The address was changed by hand, by a link, or by going back.
function follow() {
  const address = fromAddress();
  if (address.view === "studies" && (address.sort !== sort || JSON.stringify(address.filters) !== JSON.stringify(shared(filters)))) {
    sort = address.sort;
    fill(address.filters);
    look(address.filters, false);
  } else {
    read();
  }
}

function fill(wanted) {
  for (const one of byId("search").elements) if (one.name) set(one, wanted[one.name] ?? "");
  choose(KINDS.find((kind) => wanted[kind]) ?? KINDS[0]);
  byId("patient").value = wanted[byId("kind").value] ?? "";
}

// What the text in the box is.
function choose(kind) {
  byId("kind").value = kind;
  byId("patient").placeholder = kind === "patient" ? said.words : "";
  byId("patient").setAttribute("aria-label", byId("kind").selectedOptions[0].textContent);
}

function set(field, value) {
  // A centre of an address that isn't in the list is looked for all the same.
  if (field.tagName === "SELECT" && ![...field.options].some((one) => one.value === value)) field.add(new Option(value, value));
  field.value = value;
}

async function fillChoices() {
  if (chosen) return;
  chosen = true;
  const response = await fetch("/api/v1/choices");
  if (!response.ok) { chosen = false; return; }
  const { centers, modalities } = await response.json();
  const kept = byId("center").value;
  const [all] = byId("center").options;
  byId("center").replaceChildren(all, ...centers.map((one) => new Option(one, one)));
  set(byId("center"), kept);
  byId("modalities").replaceChildren(...modalities.map((one) => new Option(one, one)));
}

function watch() {
  if (events) return;
  events = new EventSource("/events");
  events.onopen = () => { byId("live").textContent = said.live; read(); };
  events.onmessage = read;
  events.onerror = () => {
    byId("live").textContent = said.paused;
    if (events.readyState === EventSource.CLOSED) { events = null; setTimeout(read, 2000); }
  };
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const response = await ask(
      "/login", byId("name").value ? { name: byId("name").value, password: byId("key").value } : { key: byId("key").value },
    );
    byId("key").value = "";
    byId("login-error").textContent = response.ok ? "" : response.status === 429 ? said.many
      : response.status === 401 ? said.refused : refusal(await response.json(), response.status);
    if (response.ok) await read();
  } catch {
    byId("login-error").textContent = said.failed;
  }
});
byId("logout").addEventListener("click", async () => { await ask("/logout"); show(false); });
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = [...new FormData(event.target)].map(([name, value]) => [name === "patient" ? byId("kind").value : name, value.trim()]);
  look(Object.fromEntries(wanted.filter(([, value]) => value !== "")));
});
byId("search").addEventListener("reset", () => { choose(KINDS[0]); look({}); });
byId("kind").addEventListener("change", () => choose(byId("kind").value));
byId("as").addEventListener("click", (event) => {
  const kind = event.target.dataset?.kind;
  if (!kind) return;
  choose(kind);
  byId("search").requestSubmit();
  // The button goes away.
  byId("patient").focus();
});
byId("found").addEventListener("click", (event) => {
  const column = event.target.dataset?.sort;
  if (!column) return;
  sort = nextSort(sort, column);
  history.replaceState(null, "", addressOf(filters, sort));
  byId("to-studies").setAttribute("href", addressOf(filters, sort));
  read();
});
byId("csv").addEventListener("click", async () => {
  if (reversed) return;
  byId("csv-message").textContent = "";
  try {
    const response = await ask("/api/v1/search.csv", filters);
    if (!response.ok) { byId("csv-message").textContent = refusal(await response.json(), response.status); return; }
    const link = document.createElement("a");
    // Fails where the answer is cut short.
    const csv = await response.blob();
    link.href = URL.createObjectURL(csv);
    link.download = "studies.csv";
    link.click();
    URL.revokeObjectURL(link.href);
    const cut = /^"INCOMPLETE, cut after ([\d,]+)/m.exec(await csv.slice(-500).text());
    if (cut !== null) byId("csv-message").textContent = said.cut(numbers.format(Number(cut[1].replaceAll(",", ""))));
  } catch {
    byId("csv-message").textContent = said.failed;
  }
});
window.addEventListener("hashchange", follow);
// Reports change the page without a study.
setInterval(() => { if (fromAddress().view === "centers" && !byId("region").hidden) read(); }, 15000);
byId("more").addEventListener("click", () => { pages += 1; read(); });
prepareDetail(person);
choose(KINDS[0]);
follow();
