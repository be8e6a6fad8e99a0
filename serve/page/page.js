"use strict";

// The page is one loop: a query (a file, or an image of the index) and the form's wishes go to /v1/search, and the
// answer is drawn. Nothing from the server is ever put into the page as markup.

const $ = (id) => document.getElementById(id);
let index = null;     // what /v1/index said
let query = null;     // { file }, { id, domain, source } or { text }
let asking = null;    // the request under way, so that a newer one can stop it
let preview = "";     // the object URL of the query's picture

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const token = () => sessionStorage.getItem("token") || "";
const headers = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  if (response.status === 401) $("locked").hidden = false;
  if (!response.ok) {
    const text = await response.json().then((said) => said.error, () => "");
    throw new Error(text || `The service answered with status ${response.status}.`);
  }
  $("locked").hidden = true;
  return response;
}

// An <img> can't carry a token; then the picture is fetched and shown from memory, if it is still wanted by then.
function show(image, { id, domain }, wanted = () => true) {
  const where = domain ? `?domain=${encodeURIComponent(domain)}` : "";
  const path = `/v1/images/${encodeURIComponent(id)}${where}`;
  if (!token()) {
    image.src = path;
    return;
  }
  call(path).then((response) => response.blob()).then((blob) => {
    if (!wanted()) return;
    image.onload = () => URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
  }, () => { image.alt += " (picture not available)"; });
}

function picture(found, note, small) {
  const image = element("img", { alt: small ? `Search from example ${note}` : "", loading: "lazy", decoding: "async" });
  show(image, found);
  const button = element("button", { type: "button" }, image);
  if (!small) {
    const steps = found.source.split("/").flatMap((step, at) => (at ? [element("wbr"), `/${step}`] : [step]));
    button.append(
      element("span", { className: "unseen", textContent: "Search from the image with score " }),
      element("span", { className: "score", textContent: found.score.toFixed(3) }),
      element("span", { className: "source" }, ...steps),
    );
  }
  button.addEventListener("click", () => choose({ id: found.id, domain: found.domain, source: found.source || note }));
  return element("li", {}, button);
}

function choose(next, remember = true) {
  query = next;
  URL.revokeObjectURL(preview);
  preview = next.file ? URL.createObjectURL(next.file) : "";
  const image = $("query");
  image.hidden = !!next.text;
  image.alt = next.file ? `Your image ${next.file.name || ""}`.trim() : `The query: ${next.source}`;
  if (next.file) image.src = preview;
  else if (next.id) show(image, next, () => query === next);
  $("how").textContent = next.text ? `“${next.text}”` : next.file ? next.file.name || "pasted image" : next.source;
  $("words").value = next.text || "";
  if (remember) {
    const state = next.file ? null : next;
    const where = next.text ? `/#text=${encodeURIComponent(next.text)}` : next.id ? `/#${encodeURIComponent(next.id)}` : "/";
    history.pushState(state, "", where);
  }
  if ($("examples").contains(document.activeElement)) $("status").focus();  // what was pressed goes away
  $("examples").open = false;
  scrollTo({ top: 0 });
  ask();
}

function wishes() {
  const boxes = [...$("domains").querySelectorAll("input")];
  const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
  const found = { k: Math.min(100, Math.max(1, Math.round($("k").valueAsNumber) || 12)), exact: $("exact").checked };
  if (chosen.length < boxes.length) found.domains = chosen;
  if (!$("judge").checked) found.null = "off";
  if ($("from").value && query.file) found.query_domain = $("from").value;
  const least = $("min-score").valueAsNumber;
  if (!Number.isNaN(least)) found.min_score = Math.min(1, Math.max(-1, least));
  return found;
}

async function ask() {
  if (!query || !index) return;
  const wanted = wishes();
  asking?.abort();
  clear();
  if (wanted.domains && !wanted.domains.length) {
    $("problem").textContent = "Choose at least one domain to search in.";
    $("problem").hidden = false;
    return;
  }
  const mine = asking = new AbortController();
  $("status").textContent = "Searching …";
  $("results").setAttribute("aria-busy", "true");
  try {
    draw(await (await call(...request(wanted, mine.signal))).json());
  } catch (error) {
    if (error.name === "AbortError") return;
    $("status").textContent = "";
    $("problem").textContent = error.message;
    $("problem").hidden = false;
  } finally {
    if (mine === asking) $("results").removeAttribute("aria-busy");
  }
}

function request(wanted, signal) {
  if (!query.file) {
    const body = JSON.stringify({ ...(query.text ? { text: query.text } : { id: query.id }), ...wanted });
    return ["/v1/search", { method: "POST", body, signal, headers: { "Content-Type": "application/json" } }];
  }
  const form = new FormData();
  form.append("image", query.file, query.file.name || "pasted");
  for (const [name, value] of Object.entries(wanted)) form.append(name, String(value));  // domains: a,b,c
  return ["/v1/search", { method: "POST", body: form, signal }];
}

function clear() {
  if ($("results").contains(document.activeElement)) $("status").focus();
  $("results").replaceChildren();
  $("status").textContent = "";
  $("problem").hidden = true;
  $("nothing").hidden = true;
}

function draw(answer) {
  clear();
  if (answer.null) {
    $("reason").textContent = `${answer.null.reason[0].toUpperCase()}${answer.null.reason.slice(1)}.`;
    $("nothing").hidden = false;
  }
  let count = 0;
  const judged = answer.judged?.by_domain || {};
  const sections = Object.entries(answer.null ? {} : answer.by_domain).map(([domain, hits]) => {
    count += hits.length;
    const title = element("h2", {}, `${domain} `, element("small", { textContent: `${hits.length} nearest` }));
    const inside = hits.length
      ? element("ol", { className: "pictures" }, ...hits.map((hit) => picture(hit, hit.source, false)))
      : element("p", { textContent: judged[domain]?.null ? "Nothing here matches." : "Nothing here scores enough." });
    const section = element("section", {}, title, inside);
    section.setAttribute("aria-label", domain);
    return [hits.length ? hits[0].score : -2, section];
  });
  sections.sort((one, other) => other[0] - one[0]);
  $("results").replaceChildren(...sections.map(([, section]) => section));
  const took = answer.timings_ms;
  const parts = [`decode ${took.decode.toFixed(1)}`, `encode ${took.encode.toFixed(1)}`, `search ${took.search.toFixed(1)}`];
  const asked = answer.partial ? ` Only ${answer.shards.answered} of ${answer.shards.total} shards answered.` : "";
  $("status").textContent = `${answer.null ? "No" : count} images in ${took.total.toFixed(1)} ms (${parts.join(", ")}).${asked}${seenAs(answer.judged)}`;
  served(answer.index_version, answer.model, answer.shards);
}

// From which domain the query was thought to be when it was judged whether anything matches.
function seenAs(judged) {
  if (!judged) return "";
  if (judged.query_domain === null) return " Not judged whether they match: this looks like none of the domains.";
  return judged.inferred ? ` Judged as ${judged.query_domain}, which it looks like.` : ` Judged as ${judged.query_domain}.`;
}

function served(version, model, shards) {
  const images = index.images.toLocaleString("en");
  const answered = shards ? `, ${shards.answered} of ${shards.total} shards answered` : "";
  $("served").textContent =
    `Index version ${version}, ${images} images; model ${model.name} ${model.fingerprint.slice(0, 12)}${answered}.`;
}

async function start() {
  try {
    index = await (await call("/v1/index")).json();
  } catch (error) {
    $("problem").textContent = error.message;
    $("problem").hidden = false;
    return;
  }
  $("problem").hidden = true;
  $("judging").hidden = !index.judges;
  $("describing").hidden = !index.reads_text;
  $("from").replaceChildren($("from").firstElementChild,
    ...Object.keys(index.domains).map((name) => element("option", { textContent: name })));
  served(index.index_version, index.model);
  $("domains").replaceChildren(...Object.entries(index.domains).map(([name, { images }]) => {
    const box = element("input", { type: "checkbox", value: name, checked: true });
    return element("label", {}, box, `${name} (${images.toLocaleString("en")})`);
  }));
  const { examples } = await call("/v1/examples").then((said) => said.json(), () => ({ examples: [] }));
  $("examples").querySelector("ul").replaceChildren(
    ...examples.map((one, number) => picture(one, `${number + 1} (${one.domain})`, true)));
  $("examples").hidden = !examples.length;
}

// What the address says: a search from an image of the index or in words, or none.
function asked() {
  if (history.state?.id || history.state?.text) return history.state;
  try {
    const said = decodeURIComponent(location.hash.slice(1));
    if (said.startsWith("text=")) return said.length > 5 ? { text: said.slice(5) } : null;
    return said ? { id: said, source: said } : null;
  } catch {
    return null;
  }
}

function forget() {
  query = null;
  asking?.abort();
  clear();
  $("query").hidden = true;
  $("words").value = "";
  $("how").textContent = "or drop one here, or paste one.";
  $("examples").open = true;
}

$("file").addEventListener("change", ({ target }) => {
  if (target.files.length) choose({ file: target.files[0] });
  target.value = "";  // the same file can be chosen again
});
for (const id of ["domains", "k", "min-score", "exact", "judge", "from"]) $(id).addEventListener("change", ask);
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("token").value) {
    sessionStorage.setItem("token", $("token").value.trim());
    $("token").value = "";
    start().then(ask);
  } else if ($("words").value.trim() && $("words").value.trim() !== query?.text) {
    choose({ text: $("words").value.trim() });
  } else ask();
});
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) choose({ file });
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files || [])][0];
  if (file) choose({ file });
});
addEventListener("popstate", () => {
  const before = asked();
  if (before) choose(before, false);
  else forget();
});
start().then(() => {
  const before = asked();
  if (query || !before) ask();
  else choose(before, false);
});
