"use strict";

const compare = (a, b) => (a - b) || a.localeCompare(b, undefined, { numeric: true });

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.querySelectorAll("th")];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const falling = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(value(a), value(b)) * (falling ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}

const dialog = document.querySelector("dialog");
const outcomes = {{ outcomes | list | tojson }};
let enlarged = null;

function enlarge(card) {
  enlarged = card;
  const copy = card.cloneNode(true);
  copy.removeAttribute("tabindex");
  const gallery = card.closest(".gallery");
  dialog.querySelector(".enlarged").replaceChildren(copy);
  dialog.querySelector(".legends").replaceChildren(gallery.querySelector(".legends").cloneNode(true));
  dialog.className = gallery.className;
  if (!dialog.open) dialog.showModal();
}

function focusOn(card) {
  if (!card) return;
  for (const other of card.parentNode.children) other.tabIndex = -1;
  card.tabIndex = 0;
  if (dialog.open) enlarge(card);
  else card.focus();
}

function neighbour(card, key) {
  const cards = [...card.parentNode.children].filter((other) => !other.hidden);
  const place = cards.indexOf(card);
  const columns = cards.filter((other) => other.offsetTop === cards[0].offsetTop).length;
  return cards[place + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key]];
}

document.addEventListener("keydown", (event) => {
  const card = dialog.open ? enlarged : event.target.closest("article");
  if (!card) return;
  if (event.key.startsWith("Arrow")) focusOn(neighbour(card, event.key));
  else if (event.key === "Enter" && !dialog.open) enlarge(card);
  else return;
  event.preventDefault();
});

dialog.addEventListener("close", () => enlarged.focus());
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });  // beside its inside

for (const gallery of document.querySelectorAll(".gallery")) {
  const form = gallery.querySelector("form");
  const cards = [...gallery.querySelectorAll("article")];
  const by = {
    "": (a, b) => a.dataset.place - b.dataset.place,
    index: (a, b) => a.dataset.index - b.dataset.index,
    label: (a, b) => compare(a.dataset.label, b.dataset.label),
    outcome: (a, b) => outcomes.indexOf(a.dataset.outcome) - outcomes.indexOf(b.dataset.outcome),
  };
  const show = () => {
    const { sort, label, outcome, spots } = form.elements;
    for (const card of cards) {
      card.hidden = (label.value && label.value !== card.dataset.label)
        || (outcome.value && outcome.value !== card.dataset.outcome);
    }
    gallery.querySelector(".cards").append(...cards.toSorted(by[sort.value]));
    const visible = cards.filter((card) => !card.hidden).length;
    form.querySelector("output").textContent = `${visible} shown`;
    gallery.classList.toggle("no-spots", spots !== undefined && !spots.checked);
  };
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const card of cards) {
    card.addEventListener("click", () => { focusOn(card); enlarge(card); });
  }
  show();
}
