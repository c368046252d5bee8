"use strict";
// Figures in the page's own darkness, a figure in its full size, details open on paper.
const dark = matchMedia("(prefers-color-scheme: dark)"), plots = [...document.querySelectorAll("img.plot")];

// A picture in which grey is turned over, white becoming dark, while every colour stays itself.
function darkened(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const c = canvas.getContext("2d");
  c.drawImage(image, 0, 0);
  const pixels = c.getImageData(0, 0, canvas.width, canvas.height), p = pixels.data;
  for (let i = 0; i < p.length; i += 4) {
    const least = Math.min(p[i], p[i + 1], p[i + 2]), most = Math.max(p[i], p[i + 1], p[i + 2]);
    const kept = Math.min(Math.max(((most - least) / 255 - 0.08) / 0.2, 0), 1);
    const grey = 22 + (255 - (least + most) / 2) * 0.82;
    for (let k = i; k < i + 3; k++) p[k] = kept * p[k] + (1 - kept) * grey;
  }
  c.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

async function dress(image) {
  image.dataset.light ||= image.src;
  image.src = image.dataset.light;
  if (!dark.matches) return;
  await image.decode();
  image.src = image.dataset.dark ||= darkened(image);
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) if (isIntersecting) { seen.unobserve(target); dress(target); }
}, { rootMargin: "900px" });
plots.forEach((image) => seen.observe(image));
dark.addEventListener("change", () => plots.forEach(dress));

const enlarged = document.getElementById("enlarged"), large = document.getElementById("large");
document.querySelectorAll("a.large").forEach((link) => link.addEventListener("click", (event) => {
  event.preventDefault();
  const image = link.firstElementChild;
  large.src = image.src;
  large.alt = image.alt;
  enlarged.showModal();
}));
enlarged.addEventListener("click", (event) => { if (event.target !== large) enlarged.close(); });

const film = document.getElementById("film");
if (film && !matchMedia("(prefers-reduced-motion: reduce)").matches) film.play().catch(() => {});

addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  plots.forEach((image) => { if (image.dataset.light) image.src = image.dataset.light; });
});
addEventListener("afterprint", () => plots.forEach((image) => { if (image.dataset.dark) dress(image); }));
