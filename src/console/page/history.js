// Series of the overviews that this page has fetched, for a gateway that keeps none.

/** @type {Record<string, number[]>} */
const series = {};
/** @type {{at: number, metrics: Record<string, number>} | null} */
let before = null;

/** Values of a series: 30 minutes, if one is fetched each 5 s. */
const KEPT = 360;
/** Counters by the name of their series. @type {Record<string, string>} */
const COUNTERS = {
  registersPerSecond: "lwm2m_registrations_total",
  updatesPerSecond: "lwm2m_updates_total",
  notificationsPerSecond: "lwm2m_notifications_total",
  commandsPerSecond: "lwm2m_commands_total",
  publicationsPerSecond: "lwm2m_publishes_total",
  handshakesPerSecond: "lwm2m_dtls_handshakes_total",
};

/** @param {any} overview @returns {Record<string, number[]>} the series with the values of this overview */
export function ownHistory({ metrics, devices, upstream }) {
  const at = performance.now();
  const associations = sum(metrics, "lwm2m_dtls_associations");
  /** @type {Record<string, number>} */
  const values = { devices: devices.total, publicationsWaiting: upstream.waiting, associations };
  if (before) {
    const seconds = (at - before.at) / 1000;
    for (const [name, counter] of Object.entries(COUNTERS))
      values[name] = Math.max(0, sum(metrics, counter) - sum(before.metrics, counter)) / seconds;
  }
  before = { at, metrics };
  for (const [name, value] of Object.entries(values)) series[name] = [...(series[name] ?? []), value].slice(-KEPT);
  return series;
}

/** @param {Record<string, number>} metrics @param {string} name @returns {number} the sum over all labels */
const sum = (metrics, name) =>
  Object.entries(metrics)
    .filter(([sample]) => sample === name || sample.startsWith(`${name}{`))
    .reduce((total, [, value]) => total + Number(value), 0);
