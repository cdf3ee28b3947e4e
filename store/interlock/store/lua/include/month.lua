-- The UTC month of a time (unix ms) as YYYY-MM (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", 2021:
-- civil_from_days).
local function month_of(at)
  local day = math.floor(at / 86400000) + 719468
  local era = math.floor(day / 146097)
  local of_era = day - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  -- Counted from March, so that the leap day comes last.
  local month = math.floor((5 * of_year + 2) / 153)
  month = month < 10 and month + 3 or month - 9
  return string.format('%04d-%02d', year + era * 400 + (month <= 2 and 1 or 0), month)
end
