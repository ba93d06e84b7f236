// The product of two large matrices, c = a b, for float and double.
//
// A block of b is copied into panels as wide as a tile, whose rows are neighbors in memory. A tile
// of c is then summed up in registers: each row of the panel is loaded once and multiplied by one
// number of each row of a. This is how BLIS and the libraries before it do it (Goto and van de
// Geijn, Anatomy of High-Performance Matrix Multiplication, 2008). What there is to gain beside a
// library is the way there: in a step, all products and what lies between them is one function.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace {  // two programs in one process must not share the panels of a thread

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

// A tile of rows x vectors, with a row of the panel and a number of a, fills the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int tile_rows = 8, tile_vectors = 3;
#else
constexpr int tile_rows = 4, tile_vectors = 3;
#endif

constexpr int64_t longest = vector_bytes == 64 ? 1024 : 256;  // rows of a panel, which stays near
constexpr int64_t panels_bytes = 1 << 18;  // and leaves room for a, b and c beside all panels
constexpr int rows_ahead = 16;             // so early is b asked for

template <typename T>
struct Product {
    typedef T Vector __attribute__((vector_size(vector_bytes)));
    static constexpr int lanes = vector_bytes / sizeof(T), panel_width = tile_vectors * lanes;
    static constexpr int64_t room = panels_bytes / sizeof(T);

    int64_t a_row, a_column, c_row, depth;
    bool add;  // to what is in c from the part of the sums before

    static Vector load(const T* from) {
        Vector v;
        memcpy(&v, from, sizeof v);
        return v;
    }

    // Numbers of two vectors, chosen by position in one after the other.
    template <int... positions>
    static Vector chosen(Vector x, Vector y) {
#if defined(__clang__)
        return __builtin_shufflevector(x, y, positions...);
#else
        typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index;
        typedef Index Indices __attribute__((vector_size(vector_bytes)));
        return __builtin_shuffle(x, y, Indices{positions...});
#endif
    }

    // A square of numbers is transposed by exchanging ever larger blocks beside its diagonal.
    template <int step, int... i>
    static void exchange(Vector& x, Vector& y, std::integer_sequence<int, i...>) {
        Vector first = chosen<(i & step ? lanes + i - step : i)...>(x, y);
        y = chosen<(i & step ? lanes + i : i + step)...>(x, y);
        x = first;
    }

    template <int step = 1>
    static void transpose(Vector* rows) {
        if constexpr (step < lanes) {
#pragma GCC unroll 16
            for (int i = 0; i < lanes; ++i)
                if (!(i & step))
                    exchange<step>(rows[i], rows[i + step],
                                   std::make_integer_sequence<int, lanes>());
            transpose<2 * step>(rows);
        }
    }

    // Copies columns of b into a panel. The last vectors are filled up with copies of a column.
    static void pack(const T* b, int64_t b_row, int64_t b_column, T* panel, int64_t depth,
                     int64_t width) {
        int64_t padded = (width + lanes - 1) / lanes * lanes;
        for (int64_t j = 0; j < padded; j += lanes) {
            int64_t k = 0;
            for (; b_row == 1 && k + lanes <= depth; k += lanes) {
                Vector square[lanes];
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i)
                    square[i] = load(b + k + std::min(j + i, width - 1) * b_column);
                transpose(square);
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i)
                    memcpy(panel + (k + i) * padded + j, &square[i], sizeof(Vector));
            }
            for (; k < depth; ++k)
                for (int64_t i = j; i < j + lanes; ++i)
                    panel[k * padded + i] = b[k * b_row + std::min(i, width - 1) * b_column];
        }
    }

    // A tile of c. Where `first`, the panel is copied from the rows of b on the way, for the tiles
    // below: waiting for b hides behind the arithmetic.
    template <int rows, int vectors, bool first>
    void tile(const T* a, const T* b, int64_t b_row, T* panel, T* c, int64_t width) const {
        Vector sum[rows][vectors] = {};
        for (int64_t k = 0; k < depth; ++k, a += a_column, b += b_row, panel += vectors * lanes) {
            Vector right[vectors];
#pragma GCC unroll 3
            for (int v = 0; v < vectors; ++v) {
                right[v] = load((first ? b : panel) + v * lanes);
                if (first) memcpy(panel + v * lanes, &right[v], sizeof(Vector));
                if (first) __builtin_prefetch(b + rows_ahead * b_row + v * lanes);
            }
#pragma GCC unroll 8
            for (int r = 0; r < rows; ++r)
#pragma GCC unroll 3
                for (int v = 0; v < vectors; ++v) sum[r][v] += a[r * a_row] * right[v];
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 3
            for (int v = 0; v < vectors; ++v) {
                T* target = c + r * c_row + v * lanes;
                if (v + 1 < vectors || width == vectors * lanes)
                    put(sum[r][v], target, sizeof(Vector));
                else
                    put(sum[r][v], target, (width - v * lanes) * sizeof(T));
            }
    }

    void put(Vector value, T* target, int64_t bytes) const {
        Vector before = {};
        if (add) memcpy(&before, target, bytes);
        value += before;
        memcpy(target, &value, bytes);
    }

    // All tiles of a block, row by row, so that c is written in long runs. The rows that are left
    // over are done in tiles of half the height, and so on.
    template <int height>
    void tiles(const T* a, const T* b, int64_t b_row, T* panels, T* c, int64_t rows,
               int64_t width) const {
        for (; rows >= height; rows -= height, a += height * a_row, c += height * c_row) {
            for (int64_t j = 0; j < width; j += panel_width) {
                int64_t left = std::min<int64_t>(width - j, panel_width);
                auto run = left > 2 * lanes ? &Product::tile<height, 3, false>
                           : left > lanes   ? &Product::tile<height, 2, false>
                                            : &Product::tile<height, 1, false>;
                if (b && left == panel_width) run = &Product::tile<height, 3, true>;
                (this->*run)(a, b + j, b_row, panels + j * depth, c + j, left);
            }
            b = nullptr;  // all of it is in the panels now
        }
        if constexpr (height > 1)
            if (rows) tiles<height / 2>(a, b, b_row, panels, c, rows, width);
    }

    // Part of the columns, or of the rows, on one thread.
    static void part(const T* a, const T* b, T* c, int64_t a_row, int64_t a_column, int64_t b_row,
                     int64_t b_column, int64_t c_row, int64_t rows, int64_t inner,
                     int64_t columns) {
        alignas(64) static thread_local T panels[room];
        int64_t most = std::min(inner, longest);
        int64_t widest = room / most / panel_width * panel_width;
        for (int64_t j = 0; j < columns; j += widest)
            for (int64_t k = 0; k < inner; k += most) {
                Product block{a_row, a_column, c_row, std::min(most, inner - k), k > 0};
                const T* from = b + k * b_row + j * b_column;
                int64_t width = std::min(widest, columns - j);
                // Whole panels of neighbors are copied by the first tiles.
                int64_t i = b_column == 1 ? width / panel_width * panel_width : 0;
                for (; i < width; i += panel_width)
                    pack(from + i * b_column, b_row, b_column, panels + i * block.depth,
                         block.depth, std::min<int64_t>(panel_width, width - i));
                block.template tiles<tile_rows>(a + k * a_column, b_column == 1 ? from : nullptr,
                                                b_row, panels, c + j, rows, width);
            }
    }
};

// c, which has no gaps, from a and b with the given distances between rows and between columns.
template <typename T>
void product(const T* a, const T* b, T* c, int64_t a_row, int64_t a_column, int64_t b_row,
             int64_t b_column, int64_t rows, int64_t inner, int64_t columns, int threads) {
    // Threads share out columns, so that none copies what another one does, or rows if there are
    // too few.
    bool wide = columns >= threads * Product<T>::panel_width;
    int64_t whole = wide ? columns : rows, unit = wide ? Product<T>::lanes : tile_rows;
    int64_t share = (whole + unit * threads - 1) / (unit * threads) * unit;
    auto piece = [&](int64_t start) {
        int64_t count = std::min(share, whole - start);
        if (wide)
            Product<T>::part(a, b + start * b_column, c + start, a_row, a_column, b_row, b_column,
                             columns, rows, inner, count);
        else
            Product<T>::part(a + start * a_row, b, c + start * columns, a_row, a_column, b_row,
                             b_column, columns, count, inner, columns);
    };
    if (share >= whole) return piece(0);
#pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < whole; start += share) piece(start);
}

}  // namespace
