// The studies as they arrive. Text from the index goes into the page as text only, never as markup.

import { readCenters } from "./centers.js";
import { language, said, translate } from "./texts.js";

const byId = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat(language);
translate();
const labels = [...byId("found").querySelectorAll("th")].map((head) => head.textContent);

let events = null;
let filters = {};
let pages = 1;           // how many pages are shown; each change reads them anew
let known = new Map();   // id -> version, to mark what is new
let reading = false;
let again = false;

async function ask(path, content) {
  return fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content ?? {}),
  });
}

function show(loggedIn) {
  byId("login").hidden = loggedIn;
  for (const id of ["views", "logout", "total", "live"]) byId(id).hidden = !loggedIn;
  const centers = location.hash === "#centers";
  byId("studies").hidden = !loggedIn || centers;
  byId("region").hidden = !loggedIn || !centers;
  byId("to-studies").toggleAttribute("aria-current", !centers);
  byId("to-centers").toggleAttribute("aria-current", centers);
  if (loggedIn) return;
  events?.close();
  events = null;
  known = new Map();
  byId("rows").replaceChildren();
  byId("key").focus();
}

function cell(text, className) {
  const element = document.createElement("td");
  element.textContent = text ?? "";
  if (className) element.className = className;
  return element;
}

// The id leads to this person's studies in all centres; without names there is nobody to look for.
function person(study) {
  const element = cell();
  if (!study.patient_id || study.patient_pk === undefined) { element.textContent = study.patient_id ?? ""; return element; }
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = study.patient_id;
  button.title = said.all;
  button.addEventListener("click", () => {
    byId("search").reset();
    filters = { patient_id: study.patient_id };
    read();
  });
  element.append(button);
  return element;
}

function images(study) {
  const element = cell("", "number");
  const count = study.study_instances === null ? "" : numbers.format(study.study_instances);
  if (!study.viewer) { element.textContent = count; return element; }
  const link = document.createElement("a");
  link.href = study.viewer;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  link.textContent = `${count} ↗`;
  link.title = said.viewer;
  element.append(link);
  return element;
}

function row(study, newest) {
  const element = document.createElement("tr");
  const arrived = new Date(study.first_received_at);
  const time = document.createElement("time");
  time.dateTime = study.first_received_at;
  time.title = arrived.toLocaleString(language);
  const today = arrived.toDateString() === new Date().toDateString();
  time.textContent = today ? arrived.toLocaleTimeString(language, { hour12: false }) : arrived.toLocaleDateString(language);
  const when = cell();
  when.append(time);
  const date = (study.study_datetime ?? "").replace(/:\d\d$/, "").replace(" 00:00", "");
  const description = cell(study.study_description, "text");
  description.title = study.study_description ?? "";
  element.append(
    when, cell(study.center), cell((study.patient_name ?? "").replace(/\^+$/, "").replace(/\^/, ", ").replaceAll("^", " "), "words"),
    person(study), cell(date), description,
    cell((study.study_modality ?? "").replaceAll("\\", " "), "words"),
    cell(study.study_series === null ? "" : numbers.format(study.study_series), "number"),
    images(study),
  );
  [...element.children].forEach((one, place) => { one.dataset.label = labels[place]; });
  element.title = study.study_iuid;
  if (known.has(study.id)) {
    if (known.get(study.id) !== study.versions) element.className = "changed";
  } else if (study.id > newest) {
    element.className = "new";
  }
  return element;
}

async function read() {
  // One at a time; what comes meanwhile is read once more afterwards.
  if (reading) { again = true; return; }
  reading = true;
  try {
    do {
      again = false;
      if (location.hash === "#centers") {
        if (!await readCenters()) { show(false); return; }
        show(true);
        watch();
        continue;
      }
      const studies = [];
      let after = null;
      let answer;
      let first;
      for (let page = 0; page < pages && (page === 0 || after !== null); page++) {
        const response = await ask("/api/v1/search", { ...filters, after });
        if (response.status === 401) { show(false); return; }
        answer = await response.json();
        if (!response.ok) { byId("message").textContent = answer.reason; return; }
        first ??= answer;
        studies.push(...answer.studies);
        after = answer.next;
      }
      byId("message").textContent = "";
      // On the first look all of them are new, and none is marked.
      const newest = known.size === 0 ? Infinity : Math.max(...known.keys());
      byId("rows").replaceChildren(...studies.map((study) => row(study, newest)));
      known = new Map(studies.map((study) => [study.id, study.versions]));
      byId("total").textContent = answer.total === null ? "" : said.total(numbers.format(answer.total));
      const asked = Object.keys(filters).length > 0 && first.hits !== null && studies.length > 0;
      const hits = numbers.format(first.hits ?? 0);
      byId("hits").textContent = !asked ? "" : first.more_hits ? said.moreHits(hits) : said.hits(hits);
      byId("person").textContent = first.names_differ ? said.differ : first.one_person ? said.person : "";
      byId("person").className = first.names_differ ? "differ" : "hint";
      byId("none").hidden = studies.length > 0;
      byId("more").hidden = after === null;
      show(true);
      watch();
    } while (again);
  } catch {
    byId("message").textContent = said.failed;
  } finally {
    reading = false;
  }
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
    byId("login-error").textContent = response.ok ? "" : response.status === 429 ? said.many : said.refused;
    if (response.ok) await read();
  } catch {
    byId("login-error").textContent = said.failed;
  }
});
byId("logout").addEventListener("click", async () => { await ask("/logout"); show(false); });
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value.trim() !== ""));
  byId("reversed").textContent = wanted.from && wanted.to && wanted.to < wanted.from ? said.reversed : "";
  if (byId("reversed").textContent) return;
  filters = wanted;
  pages = 1;
  known = new Map();
  read();
});
byId("search").addEventListener("reset", () => { byId("reversed").textContent = ""; filters = {}; pages = 1; known = new Map(); read(); });
byId("csv").addEventListener("click", async () => {
  const response = await ask("/api/v1/search.csv", filters);
  if (!response.ok) { byId("message").textContent = (await response.json()).reason; return; }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = "studies.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});
window.addEventListener("hashchange", read);
// Reports change the page without a study.
setInterval(() => { if (location.hash === "#centers" && !byId("region").hidden) read(); }, 15000);
byId("more").addEventListener("click", () => { pages += 1; read(); });
read();
