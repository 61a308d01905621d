"""What the status page says, in English and in Spanish, and how numbers, spans and sizes are written there (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cdc_indexer.monitor.causes import Cause

__all__ = [
    "CAUSES",
    "LANGUAGES",
    "TEXTS",
    "ago",
    "number",
    "passed",
    "size",
    "span",
    "wanted_language",
]

_COUNTS = ("compared", "equal", "missing", "stale", "extra", "kept", "healed")

LANGUAGES = {"en": "English", "es": "Español"}

#: Text by its name, for each language.
TEXTS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "title": "Indexer of centre {center}",
        "center": "Centre {center}",
        "language": "Language",
        "ok": "Healthy",
        "warning": "Healthy, but somebody should look",
        "failed": "Not healthy",
        "stopped": "Stopped",
        "fine": "All is well: studies go out as they are stored.",
        "catching_up": "It is catching up: {span} behind.",
        "since": "since {time}",
        "detail": "",
        "last_delivery": "Last study delivered",
        "none_yet": "none yet",
        "ago": "{span} ago",
        "behind": "Behind",
        "bytes_behind": "{size} of binary log",
        "unknown": "unknown",
        "delivered": "Delivered",
        "since_start": "since {time}",
        "under_way": "Under way",
        "under_way_more": "until they are quiet: {waiting}; queued or being sent: {queued}",
        "on_purpose": "ten minutes back on purpose: what is younger is known one by one",
        "in_all": "{count} at the index in all",
        "parked": "Parked",
        "parked_none": "nothing was rejected",
        "parked_some": "rejected by the central index",
        "rate": "Studies delivered per minute, last hour",
        "rate_label": "Studies in the last hour: {total}. Peak: {most} in a minute.",
        "rate_none": "No study was delivered in the last hour.",
        "hour_ago": "1 hour ago",
        "now": "now",
        "peak": "peak: {most} a minute",
        "rate_table": "The numbers",
        "minute": "Minute",
        "studies": "Studies",
        "parked_title": "Parked, and why",
        "parked_reason": "Reason",
        "parked_command": "On this machine: {command} shows which; then {retry} or {discard}.",
        "details": "Details",
        "position": "Position in the binary log",
        "database": "Database of the archive",
        "settled_until": "Complete until",
        "checkpoint": "Checkpoint written",
        "retried": "Sent again",
        "last_error": "Last error",
        "started": "Running since",
        "last_pass": "Last comparison",
        "no_pass": "none yet; `reconcile --report-only` leaves none",
        "pass_counts": (
            "{compared} compared in {span}: {equal} equal, {missing} missing, {stale} stale, {extra} extra; {healed} healed"
        ),
        "pass_kept": "{kept} kept",
        "pass_held": "held",
        "pass_ledger": "the archive with what was sent, since this index can't be compared",
        "version": "Version",
        "no_error": "none since the start",
        "updated": "As of {time}. Renewed every few seconds.",
        "metrics": "Metrics for Prometheus",
        "json": "The same as JSON",
        "offline": "The service does not answer any more. What you see is old.",
    },
    "es": {
        "title": "Indexador del centro {center}",
        "center": "Centro {center}",
        "language": "Idioma",
        "ok": "En buen estado",
        "warning": "En buen estado, pero conviene revisar",
        "failed": "Con problemas",
        "stopped": "Detenido",
        "fine": "Todo en orden: los estudios se envían a medida que se guardan.",
        "catching_up": "Poniéndose al día: lleva {span} de atraso.",
        "since": "desde {time}",
        "detail": "Detalle (en inglés):",
        "last_delivery": "Último estudio entregado",
        "none_yet": "ninguno todavía",
        "ago": "hace {span}",
        "behind": "Atraso",
        "bytes_behind": "{size} de registro binario",
        "unknown": "se desconoce",
        "delivered": "Entregados",
        "since_start": "desde {time}",
        "under_way": "En curso",
        "under_way_more": "a la espera de que se estabilicen: {waiting}; en cola o enviándose: {queued}",
        "on_purpose": "diez minutos atrás a propósito: lo más nuevo se conoce uno por uno",
        "in_all": "{count} en el índice en total",
        "parked": "Apartados",
        "parked_none": "ninguno fue rechazado",
        "parked_some": "rechazados por el índice central",
        "rate": "Estudios entregados por minuto, última hora",
        "rate_label": "Estudios en la última hora: {total}. Máximo: {most} en un minuto.",
        "rate_none": "No se entregó ningún estudio en la última hora.",
        "hour_ago": "hace 1 hora",
        "now": "ahora",
        "peak": "máximo: {most} por minuto",
        "rate_table": "Las cifras",
        "minute": "Minuto",
        "studies": "Estudios",
        "parked_title": "Apartados y por qué",
        "parked_reason": "Motivo",
        "parked_command": "En este equipo, {command} muestra cuáles son; después, {retry} o {discard}.",
        "details": "Detalles",
        "position": "Posición en el registro binario",
        "database": "Base de datos del archivo",
        "settled_until": "Completo hasta",
        "checkpoint": "Punto de control guardado",
        "retried": "Reintentos",
        "last_error": "Último error",
        "started": "En marcha desde",
        "last_pass": "Última comparación",
        "no_pass": "ninguna todavía; `reconcile --report-only` no deja ninguna",
        "pass_counts": (
            "comparados: {compared} en {span}; iguales: {equal}, faltantes: {missing}, distintos: {stale}, "
            "sobrantes: {extra}; corregidos: {healed}"
        ),
        "pass_kept": "conservados: {kept}",
        "pass_held": "retenida",
        "pass_ledger": "el archivo con lo enviado, pues este índice no admite comparaciones",
        "version": "Versión",
        "no_error": "ninguno desde el inicio",
        "updated": "Datos del {time}. Se actualizan cada pocos segundos.",
        "metrics": "Métricas para Prometheus",
        "json": "Lo mismo en JSON",
        "offline": "El servicio ya no responde. Lo que se ve aquí es antiguo.",
    },
}

#: What is wrong and what to do, where the page isn't in the language of the messages.
CAUSES: Mapping[Cause, str] = {
    Cause.NOT_RUNNING: "El servicio no está en marcha: inícielo.",
    Cause.CHECKPOINT: "El punto de control no se puede usar: restaure una buena copia o empiece de nuevo.",
    Cause.STUCK: "El servicio no avanza: reinícielo e informe del error.",
    Cause.STORAGE: (
        "No se puede escribir en el directorio de estado, por lo que no se envía nada: libere espacio o "
        "corrija los permisos."
    ),
    Cause.KEY_REFUSED: "El índice central rechaza la clave: corrija `key` en config.json.",
    Cause.WRONG_ADDRESS: "No hay un servicio web en esa dirección: corrija `webservice_url` en config.json.",
    Cause.REDIRECT: (
        "El índice central redirige a otra dirección: ponga la dirección definitiva en `webservice_url`."
    ),
    Cause.CERTIFICATE: (
        "No se puede confiar en el certificado del índice central: renuévelo o indique su CA en "
        "`delivery.ca`."
    ),
    Cause.NOT_THE_INDEX: (
        "En esa dirección no responde el índice central, sino otro: un portal, un cortafuegos o un proxy. Permita que "
        "deje pasar a este equipo, o corrija `webservice_url`."
    ),
    Cause.REJECTS_ALL: (
        "El índice central rechaza todo lo que recibe: consulte a quien lo administra. Lo que se apartó en ese minuto "
        "se vuelve a enviar solo."
    ),
    Cause.REFUSED: "El índice central rechaza todos los estudios: consulte a quien lo administra.",
    Cause.SERVER_ID: (
        "Otra réplica usa el mismo server_id: detenga el otro indexador o asigne a cada uno su "
        "`stream.server_id`."
    ),
    Cause.SCHEMA: (
        "La tabla o la vista del indexador no está como debe: ejecute de nuevo el script SQL de extras/."
    ),
    Cause.DATABASE_AWAY: (
        "No se puede leer la base de datos: compruebe que esté en marcha y que la cuenta tenga acceso. "
        "Se reintenta solo."
    ),
    Cause.INDEX_AWAY: "El índice central no responde: los estudios esperan y se reintenta solo.",
    Cause.DEGRADED: (
        "No hay registro binario: la tabla se lee cada pocos segundos. Active log_bin y otorgue los permisos "
        "de réplica."
    ),
    Cause.VERIFICATION: (
        "No se puede leer la vista indexer_study: las versiones posteriores de los estudios esperan."
    ),
    Cause.STARTING: "Acaba de iniciarse y se está conectando a la base de datos.",
    Cause.NOT_RECORDED: (
        "El archivo tiene estudios que los disparadores no anotaron (se envían de todos modos): ejecute de nuevo el "
        "script SQL de extras/."
    ),
    Cause.OTHER_VERSION: (
        "El archivo fue actualizado y sus tablas tienen columnas nuevas, por lo que pueden faltar valores: ejecute de nuevo "
        "extras/add_indexer_arc5.sql."
    ),
    Cause.CHANGES_HELD: (
        "Una comparación cambiaría o borraría demasiados estudios, por lo que no se envía nada de eso: revise si el archivo "
        "está completo y, si es así, ejecute `cdc-indexer reconcile --accept`."
    ),
    Cause.OTHER_WRITER: (
        "Otro proceso envía estudios de este centro al índice central: deténgalo o asígnele el suyo."
    ),
    Cause.INDEX_LOST: (
        "El índice central perdió algo de lo que había aceptado. Si responde a comparaciones, se compara con el archivo y "
        "se completa solo; si no, envíe todo de nuevo con `cdc-indexer initial --restart`."
    ),
    Cause.INITIAL_UNFINISHED: (
        "Un `initial` quedó sin terminar, así que al índice central le faltan estudios anteriores: ejecútelo de nuevo, "
        "con las mismas opciones; continúa donde quedó."
    ),
    Cause.PAUSED: "Alguien pidió una pausa: los estudios esperan. `cdc-indexer resume` la termina.",
    Cause.QUIET: (
        "El archivo no guarda estudios nuevos desde hace más de `monitor.quiet_hours`: revise si las modalidades llegan "
        "a él y si sus disparadores siguen ahí (`cdc-indexer check --admin root`)."
    ),
    Cause.OPEN_TRANSACTION: (
        "Una transacción del archivo lleva más de 15 minutos abierta: si nadie la termina, XA RECOVER la "
        "muestra y XA ROLLBACK o XA COMMIT la cierra."
    ),
    Cause.POSITION_LOST: (
        "Se perdió la posición en el registro binario: se toma una nueva y se revisa la tabla. No hay que "
        "hacer nada."
    ),
    Cause.PARKED: (
        "Hay estudios apartados porque el índice central los rechazó: revíselos con "
        "`cdc-indexer parked list`."
    ),
}


def wanted_language(accept_language: str, asked: str = "") -> str:
    """The language to answer in: the one asked for, else the best of an Accept-Language (RFC 9110, 12.5.4)."""
    if asked in LANGUAGES:
        return asked
    best, best_weight = "en", 0.0
    for part in accept_language[:500].split(","):
        name, _, parameters = part.partition(";")
        language = name.strip().lower().partition("-")[0]
        weight = 1.0
        key, _, value = parameters.strip().partition("=")
        if key.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
        if language in LANGUAGES and weight > best_weight:
            best, best_weight = language, weight
    return best


def number(value: float, language: str, places: int = 0) -> str:
    """With separators of thousands."""
    text = f"{value:,.{places}f}"
    return text.translate(str.maketrans(",.", ".,")) if language == "es" else text


def size(count: int, language: str) -> str:
    """Bytes for people, by powers of 1,000."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    text = f"{value:.0f}" if unit == "B" or value >= 100 else f"{value:.1f}"
    return f"{text.replace('.', ',') if language == 'es' else text} {unit}"


def passed(last: Mapping[str, Any], language: str) -> str:
    """What a comparison of archive and index came to."""
    texts = TEXTS[language]
    counts = {name: number(int(last.get(name) or 0), language) for name in _COUNTS}
    said = texts["pass_counts"].format(**counts, span=span(float(last.get("seconds") or 0)))
    more = [
        texts["pass_kept"].format(kept=counts["kept"]) if last.get("kept") else "",
        texts["pass_held"] if last.get("held") else "",
        "" if last.get("index") else texts["pass_ledger"],
    ]
    return "; ".join([said, *(one for one in more if one)])


def span(seconds: float) -> str:
    """A span of time with its two largest units; they are the same in both languages."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def ago(moment: datetime, now: datetime, language: str) -> str:
    """How long ago something was."""
    return TEXTS[language]["ago"].format(span=span((now - moment).total_seconds()))
