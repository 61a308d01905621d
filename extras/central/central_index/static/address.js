// What of a search is in the address, so that it can be shared: never anything of a patient.

const SHARED = ["from", "to", "modality", "center"];

export function shared(filters) {
  return Object.fromEntries(SHARED.filter((name) => filters[name]).map((name) => [name, filters[name]]));
}

export function addressOf(filters, sort) {
  const text = new URLSearchParams({ ...shared(filters), ...(sort === null ? {} : { sort }) }).toString();
  return text === "" ? "#studies" : `#studies?${text}`;
}

export function fromAddress() {
  const [view, text] = location.hash.slice(1).split("?");
  const said = Object.fromEntries(new URLSearchParams(text ?? ""));
  return { view: view === "centers" ? "centers" : "studies", filters: shared(said), sort: said.sort ?? null };
}
