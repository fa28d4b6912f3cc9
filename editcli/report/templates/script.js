"use strict";
// Search and sort over the table of facts. The page is complete without it.
(() => {
  const table = document.getElementById("list");
  if (!table) return;
  const body = table.tBodies[0], rows = [...body.rows];
  const form = document.getElementById("find"), sought = document.getElementById("sought");
  const state = document.getElementById("state"), found = document.getElementById("found");

  // Letters alone count, so that "Sao" finds "São".
  const folded = (text) => text.normalize("NFKD").replace(/\p{Mn}/gu, "").toLowerCase();
  let texts = null; // of the rows; made when first needed

  function find() {
    texts ??= rows.map((row) => folded([...row.cells].map((cell) => cell.textContent).join(" ")));
    const words = folded(sought.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, number) => {
      const fits = (!state.value || row.dataset.state === state.value)
        && words.every((word) => texts[number].includes(word));
      if (row.hidden === fits) row.hidden = !fits;
      shown += fits;
    });
    found.textContent = `${shown} of ${rows.length} facts shown`;
    form.classList.toggle("finding", shown < rows.length);
  }

  // A click sorts by a column, a second one the other way round; "since" is the order of the page.
  const headings = [...table.tHead.rows[0].cells];
  const newestFirst = new Map(rows.map((row, number) => [row, number]));
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function sort(column) {
    const heading = headings[column], since = heading.textContent === "since";
    const way = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
    const place = since
      ? new Map(rows.map((row) => [row, -newestFirst.get(row)]))
      : new Map(
          [...rows]
            .map((row) => [row, row.cells[column].textContent])
            .sort((one, other) => collator.compare(one[1], other[1]))
            .map(([row], number) => [row, number]));
    body.replaceChildren(...[...rows].sort((one, other) => way * (place.get(one) - place.get(other))));
  }

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(column));
    heading.append(button);
    if (heading.textContent === "since") heading.setAttribute("aria-sort", "descending");
  });

  form.addEventListener("submit", (event) => event.preventDefault());
  sought.addEventListener("input", find);
  state.addEventListener("change", find);
  form.hidden = false;
  if (sought.value || state.value) find(); // a browser may keep what was typed
  else found.textContent = `${rows.length} facts`;
})();

// What is folded in is printed, too.
(() => {
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((details) => { details.open = true; });
  });
  window.addEventListener("afterprint", () => {
    folded.forEach((details) => { details.open = false; });
  });
})();
