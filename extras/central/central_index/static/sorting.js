// Sorts the studies that are shown; without a column they stand as the index says, newest first.

import { language } from "./texts.js";

const VALUES = {
  arrived: (one) => one.first_received_at, center: (one) => one.center, name: (one) => one.patient_name,
  id: (one) => one.patient_id, date: (one) => one.study_datetime, description: (one) => one.study_description,
  modality: (one) => one.study_modality, series: (one) => one.study_series, images: (one) => one.study_instances,
};
const words = new Intl.Collator(language, { numeric: true });

// A column up, down, then none. Without one the newest date is first: dates down.
export function nextSort(sort, column) {
  if (column === "date") return sort === "date" ? null : "date";
  return sort === column ? `-${column}` : sort === `-${column}` ? null : column;
}

export function sorted(studies, sort) {
  const column = (sort ?? "").replace(/^-/, "");
  if (!Object.hasOwn(VALUES, column)) return studies;
  const value = VALUES[column];
  const way = sort.startsWith("-") ? -1 : 1;
  const compared = (a, b) => typeof a === "number" ? a - b : words.compare(a, b);
  // What is absent stands last, either way.
  return [...studies].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return way * compared(a, b);
  });
}

export function markSorted(table, sort) {
  // Without a column, or with one that isn't there: by date, as the index says.
  if (!Object.hasOwn(VALUES, (sort ?? "").replace(/^-/, ""))) sort = "-date";
  for (const button of table.querySelectorAll("[data-sort]")) {
    const head = button.closest("th");
    if (button.dataset.sort === sort) head.setAttribute("aria-sort", "ascending");
    else if (sort === `-${button.dataset.sort}`) head.setAttribute("aria-sort", "descending");
    else head.removeAttribute("aria-sort");
  }
}
