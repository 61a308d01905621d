// What the page says, in English and Spanish. English for elements is in the page itself.

export const TEXTS = {
  en: {},
  es: {
    title: "Índice central", skip: "Ir a los estudios", key: "Clave de lectura, o contraseña",
    "login-name": "Nombre, si tiene una contraseña propia", login: "Entrar", logout: "Salir",
    hint: "La clave de lectura que le dio el operador de este índice. La clave de un centro sirve para enviar.",
    kind: "Buscar por", patient: "Nombre o identificador",
    patient_id: "Identificador del paciente", accession_number: "Número de acceso", study_iuid: "UID del estudio",
    as: "Buscarlo como:", from: "Desde", to: "Hasta", modality: "Modalidad", center: "Centro",
    search: "Buscar", clear: "Limpiar", arrived: "Recibido", name: "Paciente", id: "Identificador",
    date: "Fecha del estudio", description: "Descripción", series: "Series", images: "Imágenes",
    none: "Ningún estudio coincide.", more: "Anteriores", studies: "Estudios", centers: "Centros",
    state: "Estado", problems: "Qué falla", heard: "Última señal", behind: "Atraso", waiting: "En espera",
    parked: "Apartados", held: "Estudios", today: "Hoy", before: "Hace una semana", pass: "Última comparación",
    program: "Programa", "all-centers": "Todos", study: "Estudio", close: "Cerrar", viewer: "Abrir las imágenes",
    all: "Estudios de esta persona en todos los centros",
  },
};

export const SAID = {
  en: {
    total: (n, count) => count === 1 ? "1 study" : `${n} studies`, live: "live", paused: "not connected, trying again …",
    refused: "This is no reader's key, or not this name's password.", many: "Too many tries: wait a minute.", failed: "The index doesn't answer.",
    detail: "All about this study", iuid: "Study UID", received: "Changed", versions: "Versions", accession_number: "Accession number",
    sorted: (n) => `the ${n} shown are sorted`, sort: "Sort", words: "words, or how they begin",
    all: "This person's studies in all centres", viewer: "Open the images",
    person: "One person, by a valid id.", differ: "Names differ much: this id may be two people's.",
    nobody: "Nothing says that this id is one person's: in each centre it may be another's.",
    // The index says them in English.
    refusals: {}, otherwise: (reason) => reason,
    cut: (n) => `The CSV has only the first ${n} studies: narrow the search.`,
    hits: (n) => `${n} found`, moreHits: (n) => `more than ${n} found`, reversed: "The last day is before the first.",
    states: {
      ok: "well", warning: "warning", failed: "failed", silent: "silent", differing: "differs", unknown: "sends no reports",
    },
    causes: {
      checkpoint: "its state can't be used", not_running: "not running", stuck: "stuck",
      storage: "its disk can't be written", key_refused: "its key is refused", wrong_address: "wrong address of this index",
      redirect: "this index redirects", certificate: "bad certificate",
      not_the_index: "a portal or proxy answers in this index's place", rejects_all: "this index rejects all that it sends",
      refused: "this index refuses it", server_id: "server_id used twice", schema: "the indexer's table or view is broken",
      database_away: "archive's database away", index_away: "doesn't reach this index", degraded: "no binary log",
      not_recorded: "triggers don't record", other_version: "archive was upgraded",
      changes_held: "changes held, somebody has to look", other_writer: "another process sends for this centre",
      verification: "the view can't be read", starting: "starting", index_lost: "this index lost something",
      initial_unfinished: "an initial isn't done",
      position_lost: "position lost, a new one is taken", paused: "paused", quiet: "no new studies",
      open_transaction: "a transaction stays open", parked: "studies parked",
    },
    ago: (n) => n < 90 ? `${n} s ago` : n < 5400 ? `${Math.round(n / 60)} min ago` : `${Math.round(n / 3600)} h ago`,
    pass: (p) => `${p.missing} missing, ${p.stale} stale, ${p.extra} extra of ${p.compared}`,
  },
  es: {
    total: (n, count) => count === 1 ? "1 estudio" : `${n} estudios`, live: "en vivo", paused: "sin conexión, reintentando …",
    refused: "No es una clave de lectura, ni la contraseña de ese nombre.", many: "Demasiados intentos: espere un minuto.", failed: "El índice no responde.",
    detail: "Todo sobre este estudio", iuid: "UID del estudio", received: "Modificado", versions: "Versiones",
    accession_number: "Número de acceso", sorted: (n) => `los ${n} a la vista están ordenados`, sort: "Orden", words: "palabras, o cómo empiezan",
    all: "Estudios de esta persona en todos los centros", viewer: "Abrir las imágenes",
    person: "Una persona, según un identificador válido.",
    differ: "Los nombres difieren mucho: este identificador puede ser de dos personas.",
    nobody: "Nada dice que este identificador sea de una sola persona: en cada centro puede ser de otra.",
    refusals: {
      no_person: "Este lector no ve nombres y no puede buscar a una persona.", other_center: "Este lector no ve ese centro.",
      no_csv: "Este lector no puede llevarse una búsqueda como CSV.", 403: "Esta clave no es de lectura.",
      408: "La búsqueda tardó demasiado en llegar al índice.", 413: "La búsqueda es demasiado larga.",
      422: "El índice no entiende la búsqueda: revise las fechas y lo que escribió.",
      503: "El índice no puede leer sus estudios en este momento.",
    },
    otherwise: (reason, status) => `El índice no lo acepta (estado ${status}).`,
    cut: (n) => `El CSV tiene solo los primeros ${n} estudios: acote la búsqueda.`,
    hits: (n, count) => count === 1 ? "1 encontrado" : `${n} encontrados`, moreHits: (n) => `más de ${n} encontrados`,
    reversed: "El último día es anterior al primero.",
    states: {
      ok: "bien", warning: "aviso", failed: "falla", silent: "en silencio", differing: "difiere", unknown: "no envía informes",
    },
    causes: {
      checkpoint: "su estado no se puede usar", not_running: "no está en marcha", stuck: "atascado",
      storage: "no puede escribir en su disco", key_refused: "se rechaza su clave",
      wrong_address: "dirección equivocada de este índice", redirect: "este índice redirige",
      certificate: "certificado no válido", not_the_index: "responde un portal o un proxy en lugar de este índice",
      rejects_all: "este índice rechaza todo lo que envía", refused: "este índice lo rechaza",
      server_id: "server_id repetido", schema: "la tabla o la vista del indexador está mal",
      database_away: "la base de datos del archivo no responde", index_away: "no llega a este índice",
      degraded: "sin registro binario", not_recorded: "los disparadores no anotan",
      other_version: "el archivo se actualizó", changes_held: "cambios retenidos, alguien debe revisar",
      other_writer: "otro proceso envía por este centro", verification: "no se puede leer la vista",
      starting: "iniciándose", index_lost: "este índice perdió algo", initial_unfinished: "un initial quedó sin terminar", position_lost: "posición perdida, se toma una nueva",
      paused: "en pausa", quiet: "sin estudios nuevos", open_transaction: "una transacción sigue abierta",
      parked: "estudios apartados",
    },
    ago: (n) => n < 90 ? `hace ${n} s` : n < 5400 ? `hace ${Math.round(n / 60)} min` : `hace ${Math.round(n / 3600)} h`,
    pass: (p) => `faltantes: ${p.missing}, distintos: ${p.stale}, sobrantes: ${p.extra}, de ${p.compared}`,
  },
};

const chosen = localStorage.getItem("language");
export const language = chosen === "es" || chosen === "en" ? chosen : navigator.language.startsWith("es") ? "es" : "en";
export const said = SAID[language];

// What the index refused, by its code or its status: its reason is for programs and operators.
export function refusal(answer, status) {
  return said.refusals[answer.code] ?? said.refusals[status] ?? said.otherwise(answer.reason, status);
}

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
