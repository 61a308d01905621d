// What the page says, in English and Spanish. English for elements is in the page itself.

export const TEXTS = {
  en: {},
  es: {
    title: "Índice central", skip: "Ir a los estudios", key: "Clave de lectura, o contraseña",
    "login-name": "Nombre, si tiene una contraseña propia", login: "Entrar", logout: "Salir",
    hint: "La clave de lectura que le dio el operador de este índice. La clave de un centro sirve para enviar.",
    patient: "Paciente: nombre o identificador", from: "Desde", to: "Hasta", modality: "Modalidad", center: "Centro",
    search: "Buscar", clear: "Limpiar", arrived: "Recibido", name: "Paciente", id: "Identificador",
    date: "Fecha del estudio", description: "Descripción", series: "Series", images: "Imágenes",
    none: "Ningún estudio coincide.", more: "Anteriores", studies: "Estudios", centers: "Centros",
    state: "Estado", problems: "Qué falla", heard: "Última señal", behind: "Atraso", waiting: "En espera",
    parked: "Apartados", held: "Estudios", today: "Hoy", before: "Hace una semana", pass: "Última conciliación",
    program: "Programa", "all-centers": "Todos", study: "Estudio", close: "Cerrar", viewer: "Abrir las imágenes",
    all: "Estudios de esta persona en todos los centros",
  },
};

export const SAID = {
  en: {
    total: (n) => `${n} studies`, live: "live", paused: "not connected, trying again …",
    refused: "This is no reader's key, or not this name's password.", many: "Too many tries: wait a minute.", failed: "The index doesn't answer.",
    detail: "All about this study", iuid: "Study UID", received: "Changed", versions: "Versions", accession_number: "Accession number",
    sorted: (n) => `the ${n} shown are sorted`,
    all: "This person's studies in all centres", viewer: "Open the images",
    person: "One person, by a valid id.", differ: "Names differ much: this id may be two people's.",
    hits: (n) => `${n} found`, moreHits: (n) => `more than ${n} found`, reversed: "The last day is before the first.",
    states: {
      ok: "well", warning: "warning", failed: "failed", silent: "silent", differing: "differs", unknown: "sends no reports",
    },
    ago: (n) => n < 90 ? `${n} s ago` : n < 5400 ? `${Math.round(n / 60)} min ago` : `${Math.round(n / 3600)} h ago`,
    pass: (p) => `${p.missing} missing, ${p.stale} stale, ${p.extra} extra of ${p.compared}`,
  },
  es: {
    total: (n) => `${n} estudios`, live: "en vivo", paused: "sin conexión, reintentando …",
    refused: "No es una clave de lectura, ni la contraseña de ese nombre.", many: "Demasiados intentos: espere un minuto.", failed: "El índice no responde.",
    detail: "Todo sobre este estudio", iuid: "UID del estudio", received: "Modificado", versions: "Versiones",
    accession_number: "Número de acceso", sorted: (n) => `los ${n} a la vista están ordenados`,
    all: "Estudios de esta persona en todos los centros", viewer: "Abrir las imágenes",
    person: "Una persona, según un identificador válido.",
    differ: "Los nombres difieren mucho: este identificador puede ser de dos personas.",
    hits: (n) => `${n} encontrados`, moreHits: (n) => `más de ${n} encontrados`,
    reversed: "El último día es anterior al primero.",
    states: {
      ok: "bien", warning: "aviso", failed: "falla", silent: "en silencio", differing: "difiere", unknown: "no envía informes",
    },
    ago: (n) => n < 90 ? `hace ${n} s` : n < 5400 ? `hace ${Math.round(n / 60)} min` : `hace ${Math.round(n / 3600)} h`,
    pass: (p) => `${p.missing} faltan, ${p.stale} desactualizados, ${p.extra} de más, de ${p.compared}`,
  },
};

const chosen = localStorage.getItem("language");
export const language = chosen === "es" || chosen === "en" ? chosen : navigator.language.startsWith("es") ? "es" : "en";
export const said = SAID[language];

export function label(name, fallback) {
  return TEXTS[language][name] ?? fallback;
}

export function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = label(element.dataset.text, element.textContent);
  }
  document.title = document.querySelector("h1").textContent;
  const other = language === "es" ? "en" : "es";
  const button = document.getElementById("language");
  button.lang = other;
  button.textContent = other === "es" ? "Español" : "English";
  button.addEventListener("click", () => { localStorage.setItem("language", other); location.reload(); });
}
