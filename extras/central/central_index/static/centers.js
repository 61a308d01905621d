// How each centre of the region stands; who needs somebody comes first, as the index says.

import { language, refusal, said } from "./texts.js";

const numbers = new Intl.NumberFormat(language);
const byId = (id) => document.getElementById(id);

function cell(text, className, label) {
  const element = document.createElement("td");
  element.textContent = text ?? "";
  element.dataset.label = label;
  if (className) element.className = className;
  return element;
}

function moment(text) {
  const time = new Date(text ?? "");
  return Number.isNaN(time.valueOf()) ? text : time.toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
}

function row(center, labels) {
  const element = document.createElement("tr");
  const number = (value) => value === null ? "" : numbers.format(value);
  const heard = center.reported_at ?? center.changed_at;
  const ago = heard ? said.ago(Math.max(0, Math.round((Date.now() - new Date(heard)) / 1000))) : "";
  const values = [
    [center.center], [said.states[center.state], `state ${center.state}`], [center.problems.map((one) => said.causes[one] ?? one).join("; "), "words"], [ago],
    [center.behind_seconds === null ? "" : `${numbers.format(center.behind_seconds)} s`, "number"],
    [number(center.waiting), "number"], [number(center.parked), "number"], [number(center.studies), "number"],
    [number(center.today), "number"], [number(center.week_before), "number"],
    [center.last_pass ? [moment(center.last_pass.at), said.pass(center.last_pass)].filter(Boolean).join(": ") : "", "words"], [center.program],
  ];
  element.append(...values.map(([text, className], place) => cell(text, className, labels[place])));
  return element;
}

// Answers whether the reader is still logged in. `over`: whether what was asked for isn't to be shown any more.
export async function readCenters(over) {
  const response = await fetch("/api/v1/centers");
  if (response.status === 401) return false;
  const answer = await response.json();
  if (over()) return true;
  byId("region-message").textContent = response.ok ? "" : refusal(answer, response.status);
  byId("region").classList.toggle("old", !response.ok);
  if (!response.ok) return true;
  const labels = [...byId("region").querySelectorAll("th")].map((head) => head.textContent);
  byId("center-rows").replaceChildren(...answer.centers.map((center) => row(center, labels)));
  return true;
}
