// One study: its row, and all that is known of it. Text from the index goes into the page as text only, never as markup.

import { language, said } from "./texts.js";

const byId = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat(language);
let shown = null;

function nameOf(study) {
  return (study.patient_name ?? "").replace(/\^+$/, "").replace(/\^/, ", ").replaceAll("^", " ");
}

function dateOf(study) {
  return (study.study_datetime ?? "").replace(/:\d\d$/, "").replace(" 00:00", "");
}

function cell(text, className) {
  const element = document.createElement("td");
  element.textContent = text ?? "";
  if (className) element.className = className;
  return element;
}

// A valid id leads to this person's studies in all centres; any other is another person's in each. Who sees no names isn't told.
function isSomebody(study) {
  return study.valid_id === true;
}

function idCell(study, person) {
  const element = cell();
  if (!isSomebody(study)) { element.textContent = study.patient_id ?? ""; return element; }
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = study.patient_id;
  button.title = said.all;
  button.addEventListener("click", () => person(study));
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

// Rows are made anew whenever something arrives: what has the keyboard's focus has it afterwards, too.
export function keepFocus(table, change) {
  const focused = document.activeElement;
  const line = table.contains(focused) ? focused.closest("tr") : null;
  const place = line === null ? -1 : [...line.querySelectorAll("a, button")].indexOf(focused);
  change();
  if (place < 0) return;
  const again = table.querySelector(`tr[data-study="${line.dataset.study}"]`);
  again?.querySelectorAll("a, button")[place]?.focus({ preventScroll: true });
}

export function row(study, newest, known, labels, { person }) {
  const element = document.createElement("tr");
  element.dataset.study = study.id;
  const arrived = new Date(study.first_received_at);
  const time = document.createElement("time");
  time.dateTime = study.first_received_at;
  time.title = arrived.toLocaleString(language);
  const today = arrived.toDateString() === new Date().toDateString();
  time.textContent = today ? arrived.toLocaleTimeString(language, { hour12: false }) : arrived.toLocaleDateString(language);
  const when = cell();
  const opening = document.createElement("button");
  opening.type = "button";
  opening.title = said.detail;
  opening.append(time);
  when.append(opening);
  const date = dateOf(study);
  const description = cell(study.study_description, "text");
  description.title = study.study_description ?? "";
  element.append(
    when, cell(study.center), cell(nameOf(study), "words"),
    idCell(study, person), cell(date), description,
    cell((study.study_modality ?? "").replaceAll("\\", " "), "words"),
    cell(study.study_series === null ? "" : numbers.format(study.study_series), "number"),
    images(study),
  );
  [...element.children].forEach((one, place) => { one.dataset.label = labels[place]; });
  element.addEventListener("click", (event) => {
    // A link or another button means something else, and so does marking text.
    const inside = event.target.closest("a, button");
    if ((inside === null && getSelection().isCollapsed) || inside === opening) showDetail(study);
  });
  if (known.has(study.id)) {
    if (known.get(study.id) !== study.versions) element.className = "changed";
  } else if (study.id > newest) {
    element.className = "new";
  }
  return element;
}

// What a column is called, else what the centre calls it.
const NAMES = [
  ["name", nameOf], ["id", (one) => one.patient_id], ["date", dateOf], ["description", (one) => one.study_description],
  ["modality", (one) => (one.study_modality ?? "").replaceAll("\\", " ")], ["series", (one) => one.study_series],
  ["images", (one) => one.study_instances], ["center", (one) => one.center],
];
const OWN = new Set([
  "id", "patient_pk", "patient_id", "patient_name", "study_pk", "study_iuid", "study_datetime", "study_description", "study_modality",
  "study_series", "study_instances", "center", "first_received_at", "received_at", "versions", "viewer", "valid_id",
]);

function showDetail(study) {
  shown = study;
  const time = (text) => new Date(text).toLocaleString(language);
  const head = (name) => document.querySelector(`[data-sort=${name}]`).textContent;
  const lines = [
    ...NAMES.map(([name, value]) => [head(name), value(study)]),
    ...Object.keys(study).filter((name) => !OWN.has(name)).map((name) => [said[name] ?? name, study[name]]),
    [said.iuid, study.study_iuid], [head("arrived"), time(study.first_received_at)],
    [said.received, study.received_at === study.first_received_at ? "" : time(study.received_at)], [said.versions, study.versions],
  ];
  byId("detail").querySelector("dl").replaceChildren(...lines.flatMap(([name, value]) => {
    if (value === null || value === undefined || value === "") return [];
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = typeof value === "number" ? numbers.format(value) : String(value);
    return [term, text];
  }));
  byId("detail-viewer").hidden = !study.viewer;
  byId("detail-viewer").href = study.viewer ?? "";
  byId("detail-person").hidden = !isSomebody(study);
  byId("detail").showModal();
}

export function prepareDetail(person) {
  const dialog = byId("detail");
  byId("detail-close").addEventListener("click", () => dialog.close());
  byId("detail-person").addEventListener("click", () => { dialog.close(); person(shown); });
  // A click beside it closes it; nothing of a patient stays behind.
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => dialog.querySelector("dl").replaceChildren());
}
